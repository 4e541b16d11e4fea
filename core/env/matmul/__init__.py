"""Matrix multiplication as a measure of each device; torch is imported by worker.py only, in a process of its own."""
