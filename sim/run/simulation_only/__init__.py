"""Measurements on private data without noise; switched on by ``track.simulation_only``."""
