"""The data stage: sources to validated prompts; and the one worker that tokenises for everyone."""
