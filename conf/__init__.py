"""Hydra configuration files, one folder for each group."""
