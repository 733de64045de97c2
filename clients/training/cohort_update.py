"""Computes the update of every unit of a cohort, clips each and adds them up: a node's round.

1. `packing.blocks` groups the units, `LanguageModel.stacks` cuts the records of a block into the
   inputs of forward passes. Units are fetched as they are needed.
2. The loss of a unit is the mean over its records of a record's mean token loss.
3. A unit takes ``local_steps`` steps of plain gradient descent from the global adapter. Its update
   is the difference to the global adapter: with one step, ``-local_lr * gradient`` (DP-FedSGD),
   with more, DP-FedAvg (McMahan et al., arXiv 1710.06963, Algorithm 1). No state of a unit outlives
   its block.
4. If the round has a scale, each update is multiplied by it, coordinate by coordinate; clip, norms
   and sum are then those of the scaled updates.
5. The clip rule of the contract bounds each update, and the clipped updates are added to one
   running sum, rounded to the contract's grid where it has one. Memory does not grow with the
   cohort, unless the clipped updates are kept.

With several devices, the blocks are spread over them and added up in their order: the sum does not
depend on which device computed which block, or when.

A failed unit (an id outside the model's vocabulary, an update that is not finite) contributes zero
and is counted. Counts stay on the device, and what is kept leaves it without a wait, so that the
host never waits for it before the end of the round.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from userdp.clients.batching import device_batches, packing
from userdp.clients.batching.device_batches import Batch
from userdp.clients.batching.packing import Unit
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import block_gradient, clipping, spread
from userdp.clients.training.memory import EngineSettings
from userdp.sim.protocol.cohort_sum import CohortSum

_BLOCKS_A_DEVICE = 4  # of each group of units, at least, where there are several devices


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """Local gradient descent of a unit before its clip."""

    steps: int = 1
    lr: float = 1.0  # learning rate


@dataclass(frozen=True)
class Block:
    """Units whose gradients are held together, and the batches of their records."""

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
    grid: float = 0.0,
) -> CohortSum:
    """Sum of the clipped updates of the units, on the CPU.

    Args:
        adapter: (D,) float32 on the model's device, the global adapter.
        units: token sequences of each unit; a unit without sequences contributes zero, and no row.
        clip_norm: C, may be infinite.
        clipping_rule: name of a clip rule, as `clipping.find` takes it.
        scale: (D,) float32 on the model's device, public; None leaves updates unscaled.
        count_unclipped: also sum the bits of units whose norm is at most ``clip_norm``.
        keep_rows: also return every clipped update, except those of failed units.
        grid: a power of two; clipped updates are rounded towards zero to its multiples. 0: not so.

    Raises:
        ConfigurationError: there is no clip rule of that name.
        ValueError: ``clip_norm`` is not positive.
        MemoryError: a single record does not fit into the device's memory.
    """
    counts, models = _UnitCounts(), engine.models_of(model)
    task = _Task(
        adapter=adapter,
        local=local,
        engine=engine,
        rule=clipping.find(clipping_rule),
        clip_norm=clip_norm,
        scale=scale,
        keep_rows=keep_rows,
        grid=grid,
    )
    known = counts.in_vocabulary(units, model.vocabulary)
    if len(models) == 1:
        parts, where = task.sums(model, packing.blocks(known, engine.max_lanes)), adapter.device
    else:
        blocks = packing.blocks(known, engine.max_lanes, _BLOCKS_A_DEVICE * len(models))
        parts, where = _spread(task, models, blocks), torch.device("cpu")
    total = torch.zeros(len(adapter), dtype=torch.float64, device=where)
    loss = torch.zeros((), dtype=torch.float64, device=where)
    tally, kept = clipping.Tally.empty(where), list[clipping.ClippedSum]()
    for part in parts:
        total += part.total
        loss += part.loss
        tally.include(part.tally)
        kept += part.kept
    clip_counts = tally.figures()  # waits for all that is queued: what is kept has arrived
    rows = [torch.zeros(0, len(total), dtype=torch.float64), *(one.rows(grid) for one in kept)]
    return CohortSum(
        total=total.cpu().numpy(),
        figures=_figures(counts, clip_counts, float(loss)),
        unclipped_bits=clip_counts.unclipped_bits if count_unclipped else None,
        rows=torch.cat(rows).numpy() if keep_rows else None,
    )


def _figures(counts: _UnitCounts, clip_counts: clipping.Figures, loss: float) -> dict[str, float]:
    """Sums over the units, by metric (simulation_only).

    `userdp.sim.tracking.metric_kinds` says which of them the server divides by the cohort size.
    """
    return {
        "cohort_size": counts.units,
        "failed_units": counts.unknown + counts.units - clip_counts.finite,
        "clipped_fraction": clip_counts.clipped,
        "mean_update_norm": clip_counts.norms,
        "train_loss": loss,
        "records_used": counts.records,
        "tokens_used": counts.tokens,
    }


@dataclass(frozen=True)
class _BlockSum:
    """The clipped sum of a block, and what the round adds up beside it."""

    total: Tensor  # (D,) float64
    loss: Tensor  # scalar float64
    tally: clipping.Tally
    kept: list[clipping.ClippedSum]  # one, on its way to the CPU, or none where rows are not kept

    def leaving(self) -> _BlockSum:
        """The same on the CPU; from a GPU it has arrived once the host has waited for the GPU."""
        total, loss, counts = (
            tensor.to("cpu", non_blocking=True)
            for tensor in (self.total, self.loss, self.tally.counts)
        )
        return _BlockSum(total, loss, clipping.Tally(counts), self.kept)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a round asks of every block; the fields are `cohort_sum`'s arguments."""

    adapter: Tensor
    local: LocalTraining
    engine: EngineSettings
    rule: clipping.ClipRule
    clip_norm: float
    scale: Tensor | None
    keep_rows: bool
    grid: float

    def at(self, device: torch.device) -> _Task:
        """The same task with its tensors on a device."""
        scale = None if self.scale is None else self.scale.to(device)
        return replace(self, adapter=self.adapter.to(device), scale=scale)

    def sums(
        self, model: LanguageModel, blocks: Iterable[Sequence[Unit]]
    ) -> Generator[_BlockSum, None, None]:
        """The sum of each block on the model's device.

        On a GPU a block is loaded while the one before it is computed.
        """

        def loaded(block: Sequence[Unit]) -> Block:
            one_adapter = self.local.steps == 1  # later steps start from each unit's own
            return load_block(model, block, self.engine.max_tokens, one_adapter=one_adapter)

        for block in device_batches.prefetch(blocks, loaded, model.device):
            yield self._sum(model, block)

    def _sum(self, model: LanguageModel, block: Block) -> _BlockSum:
        updates, loss = block_updates(model, self.adapter, block, self.local, self.engine)
        if self.scale is not None:
            updates *= self.scale
        clipped = self.rule(updates, self.clip_norm, model.layout)
        tally = clipping.Tally.empty(updates.device)
        tally.add(clipped.norms, self.clip_norm)
        return _BlockSum(
            total=clipped.total_on_grid(self.grid) if self.grid else clipped.total,
            loss=loss,
            tally=tally,
            kept=[clipped.leaving()] if self.keep_rows else [],
        )


def _spread(
    task: _Task, models: Sequence[LanguageModel], blocks: Iterable[Sequence[Unit]]
) -> Generator[_BlockSum, None, None]:
    """The sum of each block on the CPU, in the order of the blocks, computed on several devices.

    The threads of the devices queue their work and go on; who reads a sum waits for it.
    """

    def worker(
        model: LanguageModel, taken: Iterator[Sequence[Unit]]
    ) -> Generator[tuple[_BlockSum, Callable[[], object]], None, None]:
        with _current(model.device):
            for part in task.at(model.device).sums(model, taken):
                yield part.leaving(), device_batches.reached(model.device)

    workers = [functools.partial(worker, model) for model in models]
    for part, wait in spread.in_order(blocks, workers):
        wait()
        yield part


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the current one of this thread, for libraries that ask for no other."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def load_block(
    model: LanguageModel, units: Sequence[Unit], max_tokens: int, *, one_adapter: bool = True
) -> Block:
    """Lay the records of some units into stacks and copy them to the device.

    Args:
        one_adapter: whether all units have the same adapter in every step, as
            `LanguageModel.stacks` takes it.
    """
    stacks = model.stacks(units, max_tokens, one_adapter=one_adapter)
    return Block(units, [model.load(stack) for stack in stacks])


def block_updates(
    model: LanguageModel,
    adapter: Tensor,
    block: Block,
    local: LocalTraining,
    engine: EngineSettings,
) -> tuple[Tensor, Tensor]:
    """The updates of a block's units before scale and clip.

    Args:
        adapter: (D,) float32 on the model's device, the global adapter.

    Returns:
        (units of the block, D) float32, and the sum of the units' losses under the global adapter
        (scalar), without the stacks whose loss is not finite.

    Raises:
        MemoryError: a single record does not fit into the device's memory.
    """
    given = (block.batches, len(block.units))
    gradient, loss = block_gradient.added_up(model, adapter, *given, engine)
    updates = gradient.mul_(-local.lr)
    for _ in range(local.steps - 1):
        gradient, _ = block_gradient.added_up(model, adapter + updates, *given, engine)
        updates -= local.lr * gradient
    return updates, loss


@dataclass
class _UnitCounts:
    """Counts of a cohort's units, their records and tokens."""

    units: int = 0  # with records, all in the vocabulary
    unknown: int = 0  # with an id outside the vocabulary
    records: int = 0
    tokens: int = 0

    def in_vocabulary(self, units: Iterable[Unit], vocabulary: int) -> Iterator[Unit]:
        """Count the units, and pass on those that the model can read.

        An id outside the vocabulary would end the process on a GPU, so such a unit is left out.
        """
        for unit in units:
            if not all(packing.in_vocabulary(record, vocabulary) for record in unit):
                self.unknown += 1
            elif unit:
                self.units += 1
                self.records += len(unit)
                self.tokens += sum(map(len, unit))
                yield unit
