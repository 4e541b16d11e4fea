"""The train worker in several processes: accelerate starts them."""
