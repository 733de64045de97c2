"""Adds up the gradients of a block's lanes over the stacks of its records, with few copies.

A stack whose lanes follow one another in the block has its gradients written straight into their
rows of the block's matrix: 4 D bytes a lane, and no more are moved. Lanes with records in an
earlier stack are the first ones of such a stack, so their rows are kept aside while the stack is
computed, and added afterwards. Gradients of any other stack (rows of one lane at several places,
as uneven padded ones have) are computed apart and added.

Memory that runs out within a stack leaves the rows as they were before.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from userdp.clients.batching.device_batches import Batch
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training.memory import EngineSettings


def added_up(
    model: LanguageModel,
    adapters: Tensor,
    batches: Sequence[Batch],
    lanes: int,
    engine: EngineSettings,
) -> tuple[Tensor, Tensor]:
    """Gradients (lanes, D) float32 of the units' losses, and the sum of these (scalar float64).

    A stack is split in halves as often as memory runs out.

    Args:
        adapters: (D,) shared by all units, or (lanes, D).
        batches: of a block's stacks.
        lanes: units of the block.

    Raises:
        MemoryError: a single record does not fit into the device's memory.
    """
    block = _Rows(model, adapters, lanes)
    # float64: float32 losses that are huge and finite must not add up to infinity, which the
    # server refuses as a figure.
    loss = torch.zeros((), dtype=torch.float64, device=adapters.device)
    for batch in batches:
        pending = [batch]
        while pending:
            part = pending.pop()
            # Where shapes are fixed they must not follow from the records of others, so later
            # stacks stay as they are, and are halved one by one.
            compute = functools.partial(block.add, part)
            part_loss = engine.attempt(compute, part, shrink=model.shapes is None)
            if part_loss is None:
                pending += [model.load(half) for half in model.halves(part.stack)]
                continue
            # A user whose loss is not finite fails alone, and must not spoil the round's figure.
            loss += part_loss.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return block.rows, loss


class _Rows:
    """The gradients of a block's lanes.

    Attributes:
        rows: (lanes, D) float32, of the stacks that were added.
    """

    def __init__(self, model: LanguageModel, adapters: Tensor, lanes: int) -> None:
        self._model, self._adapters = model, adapters
        self.rows = torch.zeros(lanes, adapters.shape[-1], device=adapters.device)
        self._begun = np.zeros(lanes, bool)  # lanes with records in stacks that were added

    def add(self, batch: Batch) -> Tensor:
        """Add the gradients of a stack to the rows (lanes, D); returns its loss (scalar)."""
        one = self._adapters.dim() == 1
        adapters = self._adapters if one else self._adapters[batch.lanes]
        place = self._place(batch.stack.lanes)
        if place is None:
            gradients, loss = self._model.gradients(adapters, batch)
            self.rows.index_add_(0, batch.lanes, gradients)
        else:
            loss = self._write(adapters, batch, *place)
        self._begun[batch.stack.lanes] = True
        return loss

    def _place(self, lanes: np.ndarray) -> tuple[slice, int] | None:
        """Where a stack's lanes follow one another: these, and how many have begun, the first."""
        begun = self._begun[lanes]
        count = int(begun.sum())
        if (np.diff(lanes) != 1).any() or begun[count:].any():
            return None
        return slice(int(lanes[0]), int(lanes[-1]) + 1), count

    def _write(self, adapters: Tensor, batch: Batch, lanes: slice, begun: int) -> Tensor:
        """Write a stack's gradients into the rows of its lanes, of which the first have begun."""
        rows = self.rows[lanes]
        before = rows[:begun].clone()
        try:
            _, loss = self._model.gradients(adapters, batch, rows)
        except torch.OutOfMemoryError:
            rows[:begun] = before
            rows[begun:] = 0.0
            raise
        rows[:begun] += before
        return loss
