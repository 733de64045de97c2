"""A tiny task for the sides of a benchmark: four users with records of different lengths."""

from __future__ import annotations

from typing import Any

from userdp.analysis.benchmark.peers.work import Spec

TINY = {"layers": 2, "width": 16, "heads": 2, "vocabulary": 61, "rank": 2}
RAGGED = [[5, 9], [7], [3, 12, 4], [2]]  # tokens of each record of each user


def spec(**changes: Any) -> Spec:
    """The task, with some fields changed."""
    fields = {"users": 4, "records": 3, "length": 12, "lengths": RAGGED, **TINY}
    return Spec(**{**fields, **changes})
