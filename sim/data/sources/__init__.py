"""Data sources: one file for each kind of source, and the table of all of them."""
