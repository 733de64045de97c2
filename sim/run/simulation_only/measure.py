"""Measures scores by groups of users and the exposure of canaries, from private data.

A run calls it only with ``track.simulation_only=true``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from userdp.clients.evaluation.heldout import Evaluation
from userdp.sim.data.canaries import Canaries
from userdp.sim.data.population import Population
from userdp.sim.run.simulation_only import canary_exposure, user_groups
from userdp.sim.run_folder.layout import RunFolder


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of a run."""

    files: Sequence[Path] = ()  # in the run folder
    figures: Mapping[str, float] = field(default_factory=dict)  # of the whole run, by metric
    shown: Mapping[str, str] = field(default_factory=dict)  # rows of title and value


def measure(
    folder: RunFolder,
    heldout: Population,
    scores: Mapping[int, Evaluation],
    canaries: Canaries | None,
    exposure: Callable[[Canaries, int], np.ndarray],
) -> Measured:
    """Write scores by groups of users, and the exposure of the canaries if there are any.

    Args:
        folder: of the run.
        heldout: the held-out users.
        scores: their scores by number of rounds: of the base model (0) and of the last adapter.
        exposure: from the canaries and a number of rounds to their ranks, (canaries,) int64.

    Raises:
        ValueError: an evaluation has no scores of records.
    """
    user_groups.write(folder.groups, heldout, scores)
    if canaries is None:
        return Measured(files=[folder.groups])
    last, references = max(scores), len(canaries.secrets) - canaries.count
    ranks = {number: exposure(canaries, number) for number in (0, last)}
    canary_exposure.write(folder.exposure, ranks, references)
    before, after = (
        float(canary_exposure.bits(ranks[number], references).mean()) for number in (0, last)
    )
    most = np.log2(references + 1)
    text = f"{before:.1f} bits before, {after:.1f} after (chance gives 1.4, at most {most:.1f})"
    return Measured(
        files=[folder.groups, folder.exposure],
        figures={"canary_exposure_before": before, "canary_exposure": after},
        shown={"simulation_only: canaries": text},
    )
