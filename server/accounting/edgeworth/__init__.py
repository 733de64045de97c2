"""Epsilon by an Edgeworth expansion: an estimate, never a claim."""
