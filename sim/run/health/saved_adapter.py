"""Loads a saved adapter by plain peft, and holds its scores to those of the model that was trained.

A run's scores are those of its own engine, with the base model that it holds in memory. This check
is what makes them the scores of the files: a weight that neither the base model's files nor the
adapter's hold, a base model that was changed on disk, or an adapter saved in another place than it
was trained in, moves the losses of a few public records.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from userdp.clients.evaluation import heldout, plain_peft
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import memory
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common.errors import StoppedError
from userdp.sim.data.population import Population
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.run.health import public_records

_LOG = logging.getLogger("userdp")

RECORDS = 4  # held-out records that are scored twice
# Largest distance of the two vectors of losses, relative to the larger of the loss and one nat a
# token, by precision. Measured, for a Llama of 260,000 parameters: 6e-9 and 0.02.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
_ROOM = 1.2  # memory of a second base model, in sizes of its weights


def check(
    inputs: RunInputs,
    adapter: np.ndarray,
    folder: Path,
    *,
    seq_len: int,
    engine: EngineSettings,
) -> Any | None:
    """Score a few held-out records by the saved adapter in plain peft, and by the trained model.

    Where the base model cannot be loaded a second time, a line in the log says so.

    Args:
        adapter: (D,), as it was saved.
        folder: of the saved adapter.

    Returns:
        The plain base model with the saved adapter, of peft; None where it could not be loaded.

    Raises:
        StoppedError: the losses differ by more than `TOLERANCE`, or peft cannot load the adapter.
    """
    records = public_records.first(inputs.corpus.heldout, seq_len, RECORDS)
    base = _plain_base(inputs)
    if base is None:
        return None
    try:
        adapted = plain_peft.adapted(base, folder)
        found = plain_peft.losses_of(adapted, records)
    except Exception as error:  # peft raises many types for an adapter that does not fit
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise StoppedError(f"{folder}: peft cannot load the saved adapter: {reason}") from None
    wanted, sizes = _measured(inputs.model, adapter, records, seq_len, engine)
    distance = float(np.linalg.norm(found - wanted) / np.linalg.norm(sizes))
    if not distance <= TOLERANCE[inputs.model.module.dtype]:
        raise StoppedError(
            f"{folder}: loaded by plain transformers and peft, the saved adapter has the loss "
            f"{found.sum():.6g} nats on {len(records)} held-out records where the trained model "
            f"has {wanted.sum():.6g}: the base model at model.path={inputs.base} is another than "
            "the run holds; restore it, and finish by userdp run with resume=RUN FOLDER."
        )
    return adapted


def _measured(
    model: LanguageModel,
    adapter: np.ndarray,
    records: list[np.ndarray],
    seq_len: int,
    engine: EngineSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """(records,) losses by the trained model, and the sizes that a difference is compared with."""
    scores = heldout.evaluate(
        model,
        torch.from_numpy(adapter.astype(np.float32)).to(model.device),
        Population.of({"public": [record.tolist() for record in records]}),
        seq_len=seq_len,
        max_tokens=engine.max_tokens,
    ).records
    if scores is None:
        raise ValueError("The evaluation has no scores of records.")
    return scores.losses, np.maximum(scores.losses, scores.tokens)


def _plain_base(inputs: RunInputs) -> Any | None:
    """The base model, loaded once more; None, and a line in the log, where it cannot be."""
    model = inputs.model
    device, reason = _device(model), "the base model does not fit into memory a second time"
    if inputs.revision is None and not Path(inputs.base).is_dir():
        reason = "there is no such folder any more"  # and no repository of this name is meant
    elif device is not None:
        try:
            return plain_peft.load_base(
                inputs.base,
                revision=inputs.revision,
                dtype=model.module.dtype,
                device=device,
                classes=model.classes,
                quantized=inputs.quantized,
            )
        except Exception as error:  # of any library that reads or fetches the model's files
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    _LOG.warning(
        "The saved adapter was not loaded by plain peft to compare its scores: model.path=%s: %s",
        inputs.base,
        reason,
    )
    return None


def _device(model: LanguageModel) -> torch.device | None:
    """The model's device, or the CPU, where a second base model fits; None: neither."""
    tensors = (*model.module.parameters(), *model.module.buffers())
    needed = _ROOM * sum(tensor.nbytes for tensor in tensors)
    devices = dict.fromkeys((model.device, torch.device("cpu")))
    return next((device for device in devices if needed < memory.free_bytes(device)), None)
