"""Which rows a step is made of, and what each of them does to the weights."""
