"""Evaluation of adapters on held-out users, and perplexities of single records."""
