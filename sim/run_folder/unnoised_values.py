"""Tells whether a run folder holds values that were computed from private data without noise."""

from __future__ import annotations

from userdp.sim.run_folder import reader
from userdp.sim.run_folder.layout import RunFolder


def found(folder: RunFolder) -> bool:
    """Whether any process of the run wrote such values, or was asked to, as its files show."""
    metrics = folder.metrics
    if metrics.is_file() and reader.SIMULATION_ONLY.encode() in metrics.read_bytes():
        return True
    if folder.groups.is_file() or folder.exposure.is_file():
        return True
    return bool(reader.configuration(folder).get("track.simulation_only"))
