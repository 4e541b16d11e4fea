"""Several processes that train together: what they agree on. A part of the train worker."""
