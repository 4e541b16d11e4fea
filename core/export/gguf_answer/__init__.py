"""One question to a GGUF file, asked in a process of its own. answer.py is the client, worker.py the process."""
