"""Held-out scores, and perplexities of single records."""
