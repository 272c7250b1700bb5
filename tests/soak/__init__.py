"""A long run with everything that happens to connections in a long time."""
