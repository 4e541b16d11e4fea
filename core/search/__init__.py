"""The search for training settings: its space, its study on disk, its trials, its artifact."""
