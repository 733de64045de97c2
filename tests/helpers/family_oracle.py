"""Compares lanes side by side with plain peft, one record at a time, for a family of models."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import peft
import torch

from helpers import families, lanes
from helpers.cohort_sums import relative_error
from userdp.clients.models import isolation_probe
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import masking

CLASSES = 3
LONGEST = 40  # tokens of the longest record, beyond the windows of the tiny configurations
_TOLERANCE = 1e-4  # of float32, over families of up to a dozen layers


class Verdict(NamedTuple):
    """What became of a family: ``trained`` (equal to the oracle), ``refused`` or ``not built``."""

    outcome: str
    detail: str


def verdict(family: str, task: str, targets: Any = "all-linear", **changes: Any) -> Verdict:
    """The family's verdict under these targets.

    Raises:
        AssertionError: it is neither refused nor equal to the oracle.
        Exception: an error that is no refusal.
    """
    try:
        base = families.build(family, task, classes=CLASSES, **changes)
    except Exception as error:  # of transformers' own code
        return Verdict("not built", f"{type(error).__name__}: {str(error).strip()}".split("\n")[0])
    try:
        classes = CLASSES if task == "SEQ_CLS" else None
        model = LanguageModel(copy.deepcopy(base), LoraSettings(r=2, targets=targets), classes)
        isolation_probe.probe(model, LONGEST)
    except ConfigurationError as refusal:
        return Verdict("refused", str(refusal))
    check_equal(model, base, task)
    return Verdict("trained", f"{len(model.layout.shapes)} tensors")


def check_equal(model: LanguageModel, base: torch.nn.Module, task: str) -> None:
    """Updates of several units in one stack are those of plain peft, one record after the other.

    Raises:
        AssertionError: they are not.
    """
    generator = torch.Generator().manual_seed(1)
    adapter = model.initial + 0.1 * torch.randn(model.layout.size, generator=generator)
    units = _units(model)
    local = cohort_update.LocalTraining()
    got, _ = lanes.block_updates(model, adapter, units, local, max_tokens=10**6)
    for row, unit in zip(got, units, strict=True):
        error = relative_error(row, peft_update(base, model, adapter, unit, task))
        assert error < _TOLERANCE, f"{base.config.model_type}: {error:.1e} off"


def _units(model: LanguageModel) -> list[list[np.ndarray]]:
    """Units of one to three records, the longest of ``LONGEST`` tokens."""
    source = np.random.default_rng(3)
    units = []
    for lengths in ([5, 12], [LONGEST], [3, 9, 7]):
        records = [source.integers(3, model.vocabulary, n) for n in lengths]
        if model.classes is not None:
            for record in records:
                record[:-1], record[-1] = ~record[:-1], source.integers(0, model.classes)
        units.append(records)
    return units


def peft_update(
    base: torch.nn.Module, model: LanguageModel, adapter: torch.Tensor, unit: Any, task: str
) -> torch.Tensor:
    """(D,) one step of learning rate 1 on the mean loss of the unit's records."""
    adapted = peft.get_peft_model(copy.deepcopy(base), copy.deepcopy(model.peft_config)).eval()
    trained = {_saved(name): p for name, p in adapted.named_parameters() if p.requires_grad}
    for name, tensor in model.layout.named(adapter.numpy()).items():
        trained[name].data = torch.from_numpy(tensor.copy())
    _loss(adapted, np.arange(3, 9) % CLASSES, task)  # BigBird changes for good at a short text
    for record in unit:
        (_loss(adapted, record, task) / len(unit)).backward()
    return -torch.cat([trained[name].grad.flatten() for name, _ in model.layout.shapes])


def _saved(name: str) -> str:
    """A parameter's name as peft saves it."""
    return name.replace(".modules_to_save", "").replace(".default", "")


def _loss(adapted: Any, record: np.ndarray, task: str) -> torch.Tensor:
    ids = torch.from_numpy(np.asarray(masking.tokens(record), np.int64))
    text = {"input_ids": ids[None, :-1], "attention_mask": torch.ones(1, len(ids) - 1).long()}
    if task == "CAUSAL_LM" or hasattr(adapted.get_base_model(), "score"):
        text["use_cache"] = False
    logits = adapted(**text).logits
    if task == "SEQ_CLS":
        return torch.nn.functional.cross_entropy(logits, ids[-1:])
    return torch.nn.functional.cross_entropy(logits[0], ids[1:])
