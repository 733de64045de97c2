"""How messages reach the nodes: one file for each runtime."""
