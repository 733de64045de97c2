"""Concentration mechanism: a noised test decides in every round which mean is released."""
