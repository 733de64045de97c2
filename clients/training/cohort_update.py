"""From the units of a cohort to one sum of clipped updates: what a node does in a round.

1. `packing.blocks` groups the units, `packing.stacks` cuts a block's records into forward passes.
   Units are fetched as they are needed.
2. Each unit has a lane: its gradient is the mean over its records of the record's mean token loss.
3. A lane takes ``local_steps`` steps of plain gradient descent from the global adapter, and its
   update is the difference: with one step, ``-local_lr * gradient``. No state of a lane outlives
   its block.
4. `clip.clipped_sum` bounds each lane and adds it to one running sum: memory does not grow with the
   cohort, unless the clipped lanes themselves are asked for. Where the round has a scale, a lane is
   multiplied by it, coordinate by coordinate, just before; sum, norms and clip are then those of
   the scaled updates.

A failed unit (tokens the model does not know, an update that is not finite) contributes zero and is
counted. Nothing in a round waits for the device before its end: what is counted stays there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from userdp.clients.batching import device_batches, packing
from userdp.clients.batching.device_batches import Batch
from userdp.clients.batching.packing import Unit
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import clipping
from userdp.clients.training.memory import EngineSettings
from userdp.sim.protocol.cohort_sum import CohortSum


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """What a lane does before its clip (DP-FedAvg, McMahan et al., arXiv 1710.06963)."""

    steps: int = 1
    lr: float = 1.0


@dataclass(frozen=True)
class Block:
    """Units whose gradients are held together, and their stacks on the device."""

    units: Sequence[Unit]
    batches: Sequence[Batch]


def cohort_sum(
    model: LanguageModel,
    adapter: Tensor,
    units: Iterable[Unit],
    *,
    clip_norm: float,
    local: LocalTraining,
    engine: EngineSettings,
    clipping_rule: str = "joint",
    scale: Tensor | None = None,
    count_unclipped: bool = False,
    keep_rows: bool = False,
) -> CohortSum:
    """Sum over units of their clipped updates, on the CPU.

    Args:
        adapter: (D,) float32 on the model's device, where every lane starts.
        units: token sequences of each unit; a unit without sequences contributes zero, and no row.
        clipping_rule: name of a rule of `clipping.CLIP_RULES`.
        scale: (D,) float32 on the model's device, public; None multiplies nothing.
        count_unclipped: also count the units whose norm is at most ``clip_norm``.
        keep_rows: keep every clipped update; that of a failed unit is none.
    """
    total = torch.zeros(len(adapter), dtype=torch.float64, device=adapter.device)
    loss = torch.zeros((), dtype=torch.float64, device=adapter.device)
    tally, rows = clipping.Tally.empty(adapter.device), [total.new_zeros(0, len(total)).cpu()]
    counted, clip = _Counted(), clipping.CLIP_RULES.find(clipping_rule)
    for block in _blocks(model, counted.known(units, model.vocabulary), engine):
        updates, losses = block_updates(model, adapter, block, local, engine)
        if scale is not None:
            updates *= scale
        clipped = clip(updates, clip_norm)
        total += clipped.total
        loss += losses
        tally.add(clipped.norms, clip_norm)
        if keep_rows:
            rows.append(clipped.rows())
    tallied = tally.figures()
    return CohortSum(
        total=total.cpu().numpy(),
        figures=_figures(counted, tallied, float(loss)),
        unclipped_bits=tallied.unclipped_bits if count_unclipped else None,
        rows=torch.cat(rows).numpy() if keep_rows else None,
    )


def _figures(counted: _Counted, tallied: clipping.Figures, loss: float) -> dict[str, float]:
    """Sums over the units, by the metric that the server makes of each (simulation_only)."""
    return {
        "cohort_size": counted.units,
        "failed_units": counted.unknown + counted.units - tallied.finite,
        "clipped_fraction": tallied.clipped,
        "mean_update_norm": tallied.norms,
        "train_loss": loss,
        "records_used": counted.records,
        "tokens_used": counted.tokens,
    }


def _blocks(model: LanguageModel, units: Iterable[Unit], engine: EngineSettings) -> Iterator[Block]:
    def loaded(block: Sequence[Unit]) -> Block:
        return load_block(model, block, engine.max_tokens)

    return device_batches.ahead(packing.blocks(units, engine.max_lanes), loaded, model.device)


def load_block(model: LanguageModel, units: Sequence[Unit], max_tokens: int) -> Block:
    """Pack the records of some units, and start their way to the device."""
    return Block(units, [model.load(stack) for stack in packing.stacks(units, max_tokens)])


def block_updates(
    model: LanguageModel,
    adapter: Tensor,
    block: Block,
    local: LocalTraining,
    engine: EngineSettings,
) -> tuple[Tensor, Tensor]:
    """Updates (units of the block, D) before the clip, and the block's summed loss at the start."""
    gradient, loss = _block_gradient(model, adapter, block, engine)
    updates = gradient.mul_(-local.lr)
    for _ in range(local.steps - 1):
        gradient, _ = _block_gradient(model, adapter + updates, block, engine)
        updates -= local.lr * gradient
    return updates, loss


def _block_gradient(
    model: LanguageModel, adapters: Tensor, block: Block, engine: EngineSettings
) -> tuple[Tensor, Tensor]:
    """Per-unit gradients at adapters (D,), shared, or (units, D), one each."""
    gradient = torch.zeros(len(block.units), adapters.shape[-1], device=adapters.device)
    loss = torch.zeros((), device=adapters.device)
    for batch in block.batches:
        for lanes, part, part_loss in _gradients(model, adapters, batch, engine):
            gradient.index_add_(0, lanes, part)
            loss += part_loss
    return gradient, loss


def _gradients(
    model: LanguageModel, adapters: Tensor, batch: Batch, engine: EngineSettings
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Lanes of a stack, their gradients, and the loss; in halves where memory runs out."""
    pending = [batch]
    while pending:
        part = pending.pop()
        start = adapters if adapters.dim() == 1 else adapters[part.lanes]
        compute = functools.partial(model.gradients, start, part)
        found = engine.attempt(compute, part)
        if found is None:
            pending += [model.load(half) for half in packing.halves(part.stack)]
        else:
            yield part.lanes, *found


@dataclass
class _Counted:
    """Figures of the units that pass by."""

    units: int = 0
    unknown: int = 0
    records: int = 0
    tokens: int = 0

    def known(self, units: Iterable[Unit], vocabulary: int) -> Iterator[Unit]:
        """Units whose tokens the model has: on a device, an unknown one would end the process."""
        for unit in units:
            if not all(packing.known(record, vocabulary) for record in unit):
                self.unknown += 1
            elif unit:
                self.units += 1
                self.records += len(unit)
                self.tokens += sum(map(len, unit))
                yield unit
