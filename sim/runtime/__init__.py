"""Runtimes, which carry messages between server and nodes: one file each."""
