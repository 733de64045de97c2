"""From the units of a cohort to one sum of clipped updates: what a node does in a round.

1. `packing.blocks` groups the units, `packing.stacks` cuts a block's records into forward passes.
2. Each unit has a lane: its gradient is the mean over its records of the record's mean token loss.
3. A lane takes ``local_steps`` steps of plain gradient descent from the global adapter, and its
   update is the difference: with one step, ``-local_lr * gradient``. No state of a lane outlives
   its block.
4. `clip.clipped_sum` bounds each lane and adds it to one running sum: memory does not grow with the
   cohort, unless the clipped lanes themselves are asked for. Where the round has a scale, a lane is
   multiplied by it, coordinate by coordinate, just before; sum, norms and clip are then those of
   the scaled updates.

A failed unit (tokens the model does not know, an update that is not finite) contributes zero and is
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clients import clip, packing
from clients.model import LanguageModel
from clients.packing import Unit
from sim.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Speed and memory only: no setting here changes the sum beyond float tolerance."""

    max_tokens: int = 4096  # positions of one forward pass
    max_lanes: int = 128  # units whose gradients are held at a time

    def __post_init__(self) -> None:
        for name, value in (("max_tokens", self.max_tokens), ("max_lanes", self.max_lanes)):
            if value < 1:
                raise ConfigurationError(f"engine.{name}={value}: must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """What a lane does before its clip (DP-FedAvg, McMahan et al., arXiv 1710.06963)."""

    steps: int = 1
    lr: float = 1.0


@dataclass
class CohortSum:
    """Running sum over units; all but total, bits and rows is simulation_only."""

    total: Tensor  # (D,) float64
    unclipped_bits: float = 0.0  # of units with records; for the server where the clip adapts
    parts: list[Tensor] = field(default_factory=list)  # each (units, D) of a block, if kept
    units: int = 0
    failed: int = 0
    clipped: int = 0
    norms: float = 0.0  # sum of finite update norms before the clip
    losses: float = 0.0  # sum over units of the mean loss of their records
    tokens: int = 0
    records: int = 0

    def rows(self) -> Tensor:
        """(units, D) float64 clipped updates that were kept, in no particular order."""
        return torch.cat(self.parts) if self.parts else self.total.new_zeros(0, len(self.total))


def cohort_sum(
    model: LanguageModel,
    adapter: Tensor,
    units: Sequence[Unit],
    *,
    clip_norm: float,
    local: LocalTraining,
    engine: EngineSettings,
    scale: Tensor | None = None,
    keep_rows: bool = False,
) -> CohortSum:
    """Sum over units of their clipped updates.

    Args:
        adapter: (D,) float32 on the model's device, where every lane starts.
        units: token sequences of each unit; a unit without sequences contributes zero, and no row.
        scale: (D,) float32 on the model's device, public; None multiplies nothing.
        keep_rows: keep every clipped update; that of a failed unit is none.
    """
    result = CohortSum(torch.zeros(len(adapter), dtype=torch.float64, device=adapter.device))
    known = [unit for unit in units if _known(unit, model.vocabulary)]
    result.failed = len(units) - len(known)
    for block in packing.blocks(known, engine.max_lanes):
        updates, losses = block_updates(model, adapter, block, local, engine.max_tokens)
        if scale is not None:
            updates *= scale
        clipped = clip.clipped_sum(updates, clip_norm)
        result.total += clipped.total
        if keep_rows:
            result.parts.append(clipped.rows.cpu())
        _count(result, block, clipped, losses, clip_norm)
    return result


def block_updates(
    model: LanguageModel,
    adapter: Tensor,
    block: Sequence[Unit],
    local: LocalTraining,
    max_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Updates (units of the block, D) before the clip, and the block's summed loss at the start."""
    gradient, loss = _block_gradient(model, adapter, block, max_tokens)
    updates = gradient.mul_(-local.lr)
    for _ in range(local.steps - 1):
        gradient, _ = _block_gradient(model, adapter + updates, block, max_tokens)
        updates -= local.lr * gradient
    return updates, loss


def _block_gradient(
    model: LanguageModel, adapters: Tensor, block: Sequence[Unit], max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Per-unit gradients at adapters (D,), shared, or (units, D), one each."""
    size = adapters.shape[-1]
    gradient = torch.zeros(len(block), size, device=adapters.device)
    loss = torch.zeros((), device=adapters.device)
    for stack in packing.stacks(block, max_tokens):
        lanes = torch.from_numpy(stack.lanes).to(adapters.device)
        start = adapters if adapters.dim() == 1 else adapters[lanes]
        part, part_loss = model.gradients(start, stack)
        gradient.index_add_(0, lanes, part)
        loss += part_loss
    return gradient, loss


def _known(unit: Unit, vocabulary: int) -> bool:
    """Checked before anything reaches the device, where an unknown token would end the process."""
    return all(packing.known(record, vocabulary) for record in unit)


def _count(
    result: CohortSum,
    block: Sequence[Unit],
    clipped: clip.ClippedSum,
    losses: Tensor,
    clip_norm: float,
) -> None:
    finite = torch.isfinite(clipped.norms)
    result.unclipped_bits += clip.unclipped_bits(clipped.norms, clip_norm)
    result.units += len(block)
    result.failed += int((~finite).sum())
    result.clipped += int((clipped.norms > clip_norm).sum())
    result.norms += float(clipped.norms[finite].sum())
    result.losses += float(losses)
    result.records += sum(map(len, block))
    result.tokens += sum(len(record) for unit in block for record in unit)
