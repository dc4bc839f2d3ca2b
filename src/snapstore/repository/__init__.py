"""A store on disk: its objects, keys, sessions and commits, and the index that goes with it."""
