"""Scores a saved adapter by transformers and peft alone: what whoever downloads it will measure.

The base model is loaded once more from its path, and the adapter from its folder. Nothing is shared
with the model that was trained: no weights, no stacked layers, no batches, no random state.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import nn

from userdp.clients.quantization.quantization import Quantized
from userdp.sim.data import masking

_LOADING_SEED = 0x5EED  # weights that neither file holds are drawn otherwise than they were


def load_base(
    path: str,
    *,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    classes: int | None,
    quantized: Quantized | None = None,
) -> Any:
    """The plain base model; global random state is unchanged.

    Args:
        path: folder, or name on the hub.
        revision: commit on the hub; None for a folder.
        classes: number of classes; None for next-token prediction.
        quantized: how the base model is quantised, if it is; transformers does it here.

    Raises:
        Exception: whatever transformers raises where the model is gone.
    """
    auto_class: Any = transformers.AutoModelForCausalLM
    options: dict[str, Any] = {}
    if classes is not None:
        auto_class = transformers.AutoModelForSequenceClassification
        options = {"num_labels": classes}
    if quantized is not None:
        options |= {"quantization_config": quantized.config(), "device_map": {"": device}}
    with torch.random.fork_rng():
        torch.manual_seed(_LOADING_SEED)
        base: Any = auto_class.from_pretrained(
            path, revision=revision, dtype=dtype, trust_remote_code=False, **options
        )
    return base.to(device)


def adapted(base: Any, folder: Path) -> Any:
    """The base model with a saved adapter, a model of peft in evaluation mode.

    Args:
        base: as `load_base` returns it; changed in place.
        folder: of the adapter.

    Raises:
        Exception: whatever peft raises for an adapter that does not fit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(base, str(folder)).eval()


def losses(base: Any, folder: Path, records: Sequence[np.ndarray]) -> np.ndarray:
    """(records,) float64 NLL in nats of a saved adapter; arguments as of `adapted`, `losses_of`.

    Raises:
        Exception: as `adapted`.
    """
    return losses_of(adapted(base, folder), records)


def losses_of(adapted: Any, records: Sequence[np.ndarray]) -> np.ndarray:
    """(records,) float64 NLL in nats, each summed over the record's predicted tokens or class.

    Args:
        adapted: as `adapted` returns it.
        records: signed tokens (`userdp.sim.data.masking`); in a classification the last one is the
            class.
    """
    is_classifier = adapted.peft_config["default"].task_type == "SEQ_CLS"
    return np.array([_loss(adapted, record, is_classifier) for record in records])


@torch.no_grad()
def _loss(adapted: nn.Module, record: np.ndarray, is_classifier: bool) -> float:
    """The NLL of one record, read alone and without padding."""
    device = next(adapted.parameters()).device
    ids = torch.from_numpy(masking.tokens(record).astype(np.int64)).to(device)
    if is_classifier:  # the class, at the end, is no token of the text
        logits, targets = adapted(input_ids=ids[None, :-1]).logits, ids[-1:]
    else:
        learned = torch.from_numpy(masking.learned(record)).to(device)
        logits = adapted(input_ids=ids[None]).logits[0, :-1][learned]
        targets = ids[1:][learned]
    loss: float = nn.functional.cross_entropy(logits.double(), targets, reduction="sum").item()
    return loss
