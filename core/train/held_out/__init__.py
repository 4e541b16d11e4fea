"""The held-out loss; its worker.py is a part of the train worker."""
