"""The env stage: what this machine is, and whether it can do the job."""
