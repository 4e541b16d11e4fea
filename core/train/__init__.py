"""The train stage: the student as a Hugging Face folder, the worker that trains it, its checkpoints, the verb."""
