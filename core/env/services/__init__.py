"""The doctor's part for services outside this process: teacher, hub, Prefect, alert channels; each asked by a probe."""
