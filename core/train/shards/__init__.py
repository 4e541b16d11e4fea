"""A student that lies in shards on several processes, saved and loaded whole. A part of the train worker."""
