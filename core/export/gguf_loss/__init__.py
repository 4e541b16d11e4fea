"""What a GGUF file does when llama.cpp runs it: loss.py asks, worker.py runs it in a process of its own."""
