"""The processes of a search; worker.py is one of them."""
