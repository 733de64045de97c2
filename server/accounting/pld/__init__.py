"""Certified epsilon from both sides, by discretised privacy loss distributions (PLD)."""
