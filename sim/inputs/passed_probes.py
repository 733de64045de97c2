"""Keeps on disk which large models passed the isolation probe: it takes minutes on two cores.

What is kept holds for the same weights, adapter, lengths, options, libraries, processor and code of
the clients. A model that fails is probed again each time, and so is a small one, in less than the
time that its weights take to be hashed.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from userdp.clients.models import isolation_probe
from userdp.clients.models.isolation_probe import Isolation
from userdp.clients.models.language_model import LanguageModel
from userdp.server.statement import statement
from userdp.sim.common import cache, durable_file
from userdp.sim.inputs import precision

_LARGE = 1 << 24  # parameters


def probe(model: LanguageModel, seq_len: int, options: Hashable) -> Isolation:
    """What the probe measured of a model, now or when it passed before.

    Args:
        seq_len: tokens of the longest record.
        options: all that changes what the model computes, beside its weights.

    Raises:
        ConfigurationError: as `isolation_probe.probe`.
    """
    if sum(tensor.numel() for tensor in model.module.parameters()) < _LARGE:
        return isolation_probe.probe(model, seq_len)
    place = cache.place(
        cache.cache_root(),
        "probes",
        *(model.base_digest(), model.layout.digest, model.dtype, seq_len, options),
        *(torch.__version__, transformers.__version__, *precision.processor(model.device)),
        statement.code_hash(["userdp.clients"]),
    )

    def build(folder: Path) -> None:
        passed = isolation_probe.probe(model, seq_len)
        durable_file.replace(folder / "passed.json", json.dumps(asdict(passed)).encode())

    measured: Isolation = cache.stored(place, build, _read)
    return measured


def _read(folder: Path) -> Isolation:
    values = json.loads((folder / "passed.json").read_text(encoding="ascii"))
    return Isolation(**{**values, "lengths": tuple(values["lengths"])})
