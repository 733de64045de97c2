"""Estimates of epsilon by an Edgeworth expansion; no claim rests on them."""
