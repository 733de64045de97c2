"""Sweeps of many runs: their jobs, how these are launched and shown, and the inputs they share."""
