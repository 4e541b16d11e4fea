"""Turning a GGUF file into a Hugging Face folder; the client is core/train/student.py."""
