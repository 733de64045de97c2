"""Stops a run that cannot train or whose adapter is not what was scored, by public values alone."""
