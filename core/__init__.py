"""The library behind edgekiln. Imports no Prefect and, outside modules named worker.py, no torch."""

__version__ = "0.1.0"
