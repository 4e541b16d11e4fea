"""The doctor's part for services outside this process: teacher, hub, Prefect, alert channels, object store; each asked by a probe."""
