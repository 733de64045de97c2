"""Certified lower and upper epsilon, by discretised privacy loss distributions (PLD)."""
