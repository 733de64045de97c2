"""The clients of a round: record selection, per-unit training, clipping and summation on a node."""
