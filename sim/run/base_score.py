"""Scores the base model on the held-out users, once, and caches the score on disk.

Base model and held-out users are public, and so is the score. All runs of a sweep share it, also
those with other seeds, since every adapter starts at B = 0. The losses of single records are stored
for simulations alone: with ``data.split=record`` the same users are trained on.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from userdp.clients.evaluation import heldout
from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run import finish
from userdp.sim.run.prepare import Prepared

VERSION = 5  # of the procedure; part of the cache key


def score(prepared: Prepared) -> heldout.Evaluation:
    """The score of the adapter before training, which is that of the base model.

    The cache key covers the held-out records, their longest sequence, the configuration and weights
    of the base model, the initial adapter (with the head of a classification), the type of device,
    and whether the losses of single records are stored (``track.simulation_only=true``).

    Raises:
        ConfigurationError: the base model's loss is not finite, before a round is spent.
    """
    seq_len, keep_records = prepared.settings.model.seq_len, prepared.settings.track.simulation_only
    evaluation: heldout.Evaluation = prepared.inputs.cached(
        ("base score", seq_len, keep_records), lambda: _stored(prepared)
    )
    if not math.isfinite(evaluation.loss):
        raise ConfigurationError(
            f"model.path={prepared.inputs.base}: its loss on the held-out records is "
            f"{evaluation.loss}; its weights are damaged, or its precision is too low."
        )
    return evaluation


def known(prepared: Prepared) -> bool:
    """Whether the score is in the cache."""
    return _place(prepared).exists()


def _place(prepared: Prepared) -> Path:
    inputs, initial = prepared.inputs, prepared.inputs.model.initial.numpy()
    return cache.place(
        cache.cache_root(),
        "baselines",
        VERSION,
        inputs.corpus.name,
        prepared.settings.model.seq_len,
        inputs.model.base_digest(),
        hashlib.blake2b(initial.tobytes()).hexdigest(),
        inputs.model.device.type,
        prepared.settings.track.simulation_only,
    )


def _stored(prepared: Prepared) -> heldout.Evaluation:
    initial = prepared.inputs.model.initial.numpy()
    keep_records = prepared.settings.track.simulation_only

    def build(folder: Path) -> None:
        evaluation = finish.score(prepared, initial)
        _write(folder, evaluation if keep_records else replace(evaluation, records=None))

    return cache.stored(_place(prepared), build, _read)


def _write(folder: Path, evaluation: heldout.Evaluation) -> None:
    figures = {name: value for name, value in vars(evaluation).items() if name != "records"}
    (folder / "score.json").write_bytes(json.dumps(figures).encode())
    if evaluation.records is not None:
        arrays = {
            name: array for name, array in vars(evaluation.records).items() if array is not None
        }
        np.savez(folder / "records.npz", **arrays)


def _read(folder: Path) -> heldout.Evaluation:
    figures, records = json.loads((folder / "score.json").read_bytes()), None
    if (folder / "records.npz").exists():
        with np.load(folder / "records.npz") as arrays:
            records = heldout.RecordScores(**arrays)
    return heldout.Evaluation(**figures, records=records)
