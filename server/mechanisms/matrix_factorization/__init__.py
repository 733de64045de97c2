"""Noise that is correlated over rounds, by a banded matrix factorisation."""
