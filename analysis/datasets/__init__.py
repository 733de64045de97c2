"""Rebuilds the data sets and the small base model of the docs' results from public sources."""
