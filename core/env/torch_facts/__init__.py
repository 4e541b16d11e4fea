"""What the installed torch was built for and what it can use: read by a process of its own."""
