"""What can be read of a training beside its loss; a part of the train worker."""
