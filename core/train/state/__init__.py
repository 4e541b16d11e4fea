"""The state of a running training as files and back; its worker.py is a part of the train worker."""
