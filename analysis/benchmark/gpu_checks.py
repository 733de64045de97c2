"""What has to hold on a device before its speed is of interest, on models small enough for seconds.

Each check compares the engine with something that shares no code with it, and tells what it found.
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from userdp.analysis.benchmark import private_round
from userdp.analysis.benchmark.peers import work as works
from userdp.analysis.benchmark.peers.work import Spec, Work
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.quantization import quantization
from userdp.clients.quantization.quantized_linear import QuantizedLinear
from userdp.clients.training import cohort_update
from userdp.clients.training.cohort_update import LocalTraining
from userdp.clients.training.memory import EngineSettings
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng

# Largest relative distance of gradients that is rounding, by precision of the base model.
_ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2}
_SPEC = Spec(users=6, records=3, length=24, layers=2, width=64, vocabulary=512)
_DEVIATIONS = 6.0  # of the measured noise from its scale that are chance


def run(device: str) -> dict[str, dict[str, Any]]:
    """Every check on a device: its name -> whether it holds, and what it measured.

    Args:
        device: of torch.
    """
    spec = replace(_SPEC, device=device, lengths=_uneven())
    checks: Mapping[str, Callable[[], tuple[bool, float]]] = {
        "lane gradients are those of plain peft, float32": lambda: _lanes(spec),
        "lane gradients are those of plain peft, bfloat16": lambda: _lanes(
            replace(spec, dtype="bfloat16")
        ),
        "packed rows give what padded rows give": lambda: _packed(spec),
        **_quantized_checks(spec),
        "every tensor of the adapter has a gradient": lambda: _no_leaf_without(spec),
        "noise has the scale that is accounted": lambda: _noise(spec),
    }
    found = {name: check() for name, check in checks.items()}
    return {name: {"holds": holds, "measured": value} for name, (holds, value) in found.items()}


def _uneven() -> list[list[int]]:
    """Lengths of the records of each user."""
    draw = rng.generator(0, "gpu checks")
    return [draw.integers(2, _SPEC.length, n).tolist() for n in (1, 3, 2, 5, 1, 4)]


def _updates(work: Work, *, packed: bool = False) -> Tensor:
    """(users, D) float64 on the CPU: the engine's gradient of each user."""
    spec = work.spec
    model = LanguageModel(work.base(), LoraSettings(r=spec.rank, alpha=2 * spec.rank))
    model.pack(packed)
    adapter = torch.from_numpy(work.adapter(model.layout.size)).to(model.device)
    block = cohort_update.load_block(model, list(work.users()), max_tokens=64)
    updates, _ = cohort_update.block_updates(
        model, adapter, block, LocalTraining(lr=-1.0), EngineSettings()
    )
    return updates.double().cpu()


def _plain(work: Work) -> Tensor:
    """(users, D) float64 on the CPU: the same by stock peft, one user after another."""
    model = work.plain()
    leaves = works.trained(model)
    rows = []
    for records in work.users():
        batch = works.collate(records, work.spec.device)
        loss = works.record_losses(model, batch["input_ids"], batch["labels"]).mean()
        grads = torch.autograd.grad(loss, leaves)
        rows.append(torch.cat([grad.flatten() for grad in grads]).double().cpu())
    return torch.stack(rows)


def _distance(found: Tensor, wanted: Tensor) -> float:
    """The largest distance of two rows, relative to the second's norm."""
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


def _lanes(spec: Spec) -> tuple[bool, float]:
    work = Work(spec)
    distance = _distance(_updates(work), _plain(work))
    return distance <= _ROUNDING[spec.dtype], distance


def _quantized_checks(spec: Spec) -> dict[str, Callable[[], tuple[bool, float]]]:
    """Lane gradients over a quantised base, for each kind whose library is there."""
    return {
        f"lane gradients over a base in {kind} are those of plain peft, {dtype}": functools.partial(
            _quantized, replace(spec, family="llama", quantize=kind, dtype=dtype)
        )
        for kind in ("int8", "nf4")
        if importlib.util.find_spec(quantization.KINDS[kind].library) is not None
        for dtype in _ROUNDING
    }


class _Dequantized(Work):
    """The same work with layers of torch, whose weights are those that the quantised ones hold."""

    def base(self) -> Any:
        """The base model without a quantised layer, on the device."""
        model = super().base()
        for path, layer in list(model.named_modules()):
            if isinstance(layer, QuantizedLinear):
                plain = torch.nn.Linear(
                    layer.in_features, layer.out_features, bias=False, device="meta"
                )
                plain.weight = torch.nn.Parameter(layer.weight, requires_grad=False)
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, plain)
        return model


def _quantized(spec: Spec) -> tuple[bool, float]:
    distance = _distance(_updates(Work(spec)), _plain(_Dequantized(spec)))
    return distance <= _ROUNDING[spec.dtype], distance


def _packed(spec: Spec) -> tuple[bool, float]:
    work = Work(spec)
    distance = _distance(_updates(work, packed=True), _updates(work))
    return distance <= _ROUNDING[spec.dtype], distance


def _no_leaf_without(spec: Spec) -> tuple[bool, float]:
    """The least norm of a tensor's gradient, over the whole update's."""
    work = Work(spec)
    model = LanguageModel(work.base(), LoraSettings(r=spec.rank, alpha=2 * spec.rank))
    update = _updates(work).sum(0)
    least = min(float(update[part].norm() / update.norm()) for part, _ in model.layout.parts())
    return least > 0, least


def _noise(spec: Spec) -> tuple[bool, float]:
    """The spread of a round's noise over z C, from what the round released and its exact sum."""
    work = Work(spec)
    with tempfile.TemporaryDirectory() as folder:
        steps = functools.partial(torch.optim.SGD, lr=1.0)  # along the released mean
        rounds = private_round.Rounds(work, UserWise, Path(folder), steps)
        exact, before = rounds.clipped_sum(), rounds.adapter.astype(np.float64)
        rounds.go()
        released = (rounds.adapter - before) * len(work.counts)
    share = float((released - exact).std() / (spec.noise_multiplier * spec.clip_norm))
    return bool(abs(share - 1) < _DEVIATIONS / np.sqrt(2 * len(exact))), share
