"""The Hugging Face hub: models sent to it and fetched from it, each by a process of its own; what its failures mean."""
