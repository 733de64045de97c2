"""What the base model scores on the held-out users: computed once, then read from disk.

Base model and held-out users are public, and so is the figure. Sweeps and repeated runs share it,
and adapters of every seed in one process, since all of them start at B = 0. Its parts, a loss a
record, are kept for simulations alone: with ``data.split=record`` their users train too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from userdp.clients.evaluation import heldout
from userdp.sim.common import cache
from userdp.sim.run import finish
from userdp.sim.run.prepare import Prepared

VERSION = 3  # of the procedure; part of the cache key


def score(ready: Prepared) -> heldout.Evaluation:
    """The adapter before training on the held-out records; it changes nothing of the base model.

    The key covers the held-out records and how they are cut, the base model's configuration and
    weights, the adapter (which holds the head of a classification), the kind of device, and whether
    records' losses are kept (``track.simulation_only=true``).
    """
    seq_len, kept = ready.settings.model.seq_len, ready.settings.track.simulation_only
    return ready.world.figure(("base score", seq_len, kept), lambda: _stored(ready))


def _stored(ready: Prepared) -> heldout.Evaluation:
    here, initial = ready.world, ready.world.model.initial.numpy()
    kept = ready.settings.track.simulation_only
    key = cache.fingerprint(
        "baseline",
        VERSION,
        here.corpus.name,
        ready.settings.model.seq_len,
        here.model.base_digest(),
        hashlib.blake2b(initial.tobytes()).hexdigest(),
        here.model.device.type,
        kept,
    )

    def build(folder: Path) -> None:
        found = finish.score(ready, initial)
        _write(folder, found if kept else replace(found, records=None))

    return _read(cache.published(cache.cache_root() / "baselines" / key, build))


def _write(folder: Path, found: heldout.Evaluation) -> None:
    figures = {name: value for name, value in vars(found).items() if name != "records"}
    (folder / "score.json").write_text(json.dumps(figures))
    if found.records is not None:
        arrays = {name: kept for name, kept in vars(found.records).items() if kept is not None}
        np.savez(folder / "records.npz", **arrays)


def _read(folder: Path) -> heldout.Evaluation:
    figures, records = json.loads((folder / "score.json").read_text()), None
    if (folder / "records.npz").exists():
        with np.load(folder / "records.npz") as arrays:
            records = heldout.RecordScores(**arrays)
    return heldout.Evaluation(**figures, records=records)
