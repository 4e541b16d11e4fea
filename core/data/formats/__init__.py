"""The file formats the readers know, one module each; readers.py is the door."""
