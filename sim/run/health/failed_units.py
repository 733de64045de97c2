"""Tells that a round released no update: from released values, and in simulations from counts.

How many units failed is private: it goes into no line unless ``track.simulation_only`` asked for
such values. In a run without noise the release itself shows it, since a sum of nothing is zero.
"""

from __future__ import annotations

import logging

from userdp.sim.tracking import tracker
from userdp.sim.tracking.tracker import NullTracker, Values

_LOG = logging.getLogger("userdp")


class FailedUnits(NullTracker):
    """A tracker that writes nothing but lines in the log about rounds without an update.

    Args:
        simulation_only: whether the run may tell values of that kind.
    """

    def __init__(self, *, simulation_only: bool = False) -> None:
        self._keep = simulation_only

    def log(self, number: int, values: Values, simulation_only: Values = tracker.NONE) -> None:
        if values.get("release_norm") == 0:
            _LOG.warning(
                "Round %d released exactly zero: nobody took part, or no update was finite.", number
            )
        failed = simulation_only.get("failed_units", 0)
        if self._keep and failed and not simulation_only.get("mean_update_norm", 0):
            _LOG.warning(
                "simulation_only: round %d: no unit has an update; %d failed (values that are not "
                "finite, or tokens that the model cannot read).",
                number,
                failed,
            )
