"""Files sent to a repository as one commit. upload.py is the client, worker.py the process."""
