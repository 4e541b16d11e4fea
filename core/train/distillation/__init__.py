"""Learning from a teacher's log-probabilities; worker.py is a part of the train worker."""
