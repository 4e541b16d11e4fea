"""The learning-rate range test: a short training whose rate rises step by step; worker.py takes the steps."""
