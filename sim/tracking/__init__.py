"""Metrics and where they are written: JSON lines, Weights & Biases, TensorBoard."""
