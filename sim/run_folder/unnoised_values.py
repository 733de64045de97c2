"""Tells whether a run folder holds values that were computed from private data without noise."""

from __future__ import annotations

from userdp.sim.run_folder import reader
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.run_folder.reader import Run


def found(folder: RunFolder) -> bool:
    """Whether any process of the run wrote such values, or was asked to, as its files show."""
    metrics = folder.metrics
    if metrics.is_file() and reader.SIMULATION_ONLY.encode() in metrics.read_bytes():
        return True
    if any(path.is_file() for path in (folder.groups, folder.exposure, folder.user_inference)):
        return True
    return bool(reader.configuration(folder).get("track.simulation_only"))


def told(run: Run) -> bool:
    """The same of a run that was read: its statement, its metrics and its configuration say so."""
    if run.statement.get("simulation_only") or run.config.get("track.simulation_only"):
        return True
    return any(
        key.startswith(reader.SIMULATION_ONLY) for row in (*run.rows, run.summary) for key in row
    )
