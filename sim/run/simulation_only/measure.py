"""What only a simulation may look at when a run ends: scores by groups, what canaries left behind.

Nothing is measured or written unless ``track.simulation_only=true``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from userdp.clients.evaluation.heldout import Evaluation
from userdp.sim.data.canaries import Canaries
from userdp.sim.run.prepare import Prepared
from userdp.sim.run.simulation_only import canary_exposure, user_groups


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Files in the run folder, figures of the whole run by metric, rows for the screen."""

    files: Sequence[Path] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)


def measure(ready: Prepared, scores: Mapping[int, Evaluation]) -> Seen:
    """Write ``groups.csv``, and ``exposure.csv`` where there are canaries.

    Args:
        scores: held-out scores by rounds spent, of the base model (0) and of the last adapter.
    """
    if not ready.settings.track.simulation_only:
        return Seen()
    path = ready.settings.folder / "groups.csv"
    user_groups.write(path, ready.world.corpus.heldout, scores)
    canaries = ready.world.canaries
    return Seen(files=[path]) if canaries is None else _exposed(ready, canaries, path, max(scores))


def _exposed(ready: Prepared, canaries: Canaries, beside: Path, last: int) -> Seen:
    model, references = ready.world.model, len(canaries.secrets) - canaries.count
    adapters = {0: model.initial.numpy(), last: ready.optimizer.averaged}
    ranks = {
        number: canary_exposure.ranks(canaries, model, adapter, max_tokens=ready.engine.max_tokens)
        for number, adapter in adapters.items()
    }
    path = beside.with_name("exposure.csv")
    canary_exposure.write(path, ranks, references)
    before, after = (float(canary_exposure.bits(ranks[n], references).mean()) for n in (0, last))
    most = np.log2(references + 1)
    text = f"{before:.1f} bits before, {after:.1f} after (chance gives 1.4, at most {most:.1f})"
    return Seen(
        files=[beside, path],
        figures={"canary_exposure_before": before, "canary_exposure": after},
        shown={"simulation_only: canaries": text},
    )
