"""The trainer that can be stopped anywhere; its worker.py is a part of the train worker."""
