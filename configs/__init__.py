"""Configuration as data: profiles, models, devices, schemas. No code."""
