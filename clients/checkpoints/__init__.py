"""Weights of a base model as its checkpoint holds them: what is missing, damaged, or an adapter."""
