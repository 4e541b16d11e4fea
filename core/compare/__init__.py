"""Models held against each other on the same prompts: answers, loss, task figures, and a verdict with its interval."""
