"""The memory a GGUF file needs when llama.cpp runs it: need.py estimates and asks, worker.py measures in a process of its own."""
