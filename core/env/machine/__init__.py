"""What this machine is, read in processes of their own and judged by pure functions; the same for a board over SSH."""
