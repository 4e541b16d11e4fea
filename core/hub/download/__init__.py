"""A repository's files fetched at one commit. download.py is the client, worker.py the process."""
