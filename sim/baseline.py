"""What the base model scores on the held-out users: computed once, then read from disk.

Base model and held-out users are public, and so is the figure. Sweeps and repeated runs share it,
and adapters of every seed in one process, since all of them start at B = 0.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from clients import evaluate
from sim import cache, outcome
from sim.prepare import Prepared

VERSION = 1  # of the procedure; part of the cache key


def score(ready: Prepared) -> evaluate.Evaluation:
    """The adapter before training on the held-out records; it changes nothing of the base model.

    The key covers the held-out records and how they are cut, the base model's configuration and
    weights, the adapter (which holds the head of a classification) and the kind of device.
    """
    seq_len = ready.settings.model.seq_len
    return ready.world.figure(("base score", seq_len), lambda: _stored(ready))


def _stored(ready: Prepared) -> evaluate.Evaluation:
    here, initial = ready.world, ready.world.model.initial.numpy()
    key = cache.fingerprint(
        "baseline",
        VERSION,
        here.corpus.name,
        ready.settings.model.seq_len,
        here.model.base_digest(),
        hashlib.blake2b(initial.tobytes()).hexdigest(),
        here.model.device.type,
    )

    def build(folder: Path) -> None:
        (folder / "score.json").write_text(json.dumps(vars(outcome.score(ready, initial))))

    folder = cache.published(cache.cache_root() / "baselines" / key, build)
    return evaluate.Evaluation(**json.loads((folder / "score.json").read_text()))
