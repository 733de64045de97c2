"""Copies stacks to the device as batches, and prefetches them so that the device does not wait.

On a GPU a thread selects, packs and copies the next block from pinned memory while the present one
is computed. On a CPU there is no second processor to overlap with, so batches are made in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from userdp.clients.batching.packed_rows import PackedStack
from userdp.clients.batching.packing import Stack

_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A stack's tensors on the device."""

    stack: Stack | PackedStack
    inputs: Tensor  # (rows, positions) int64 tokens that the model reads
    inside: Tensor  # (rows, positions) bool: True where the position is no padding
    positions: Tensor  # (predicted tokens,) int64 into flattened inputs
    targets: Tensor  # (predicted tokens,) int64
    weights: Tensor  # (predicted tokens,) float32
    lanes: Tensor  # (lanes of the stack,) int64 lanes of the block
    position_ids: Tensor | None = None  # (rows, positions) int64, of packed rows
    starts: Tensor | None = None  # (lanes of the stack + 1,) int32, of packed rows

    @property
    def divisible(self) -> bool:
        """Whether the stack can be split for a retry."""
        packed = isinstance(self.stack, PackedStack)
        return len(self.stack.records if packed else self.inputs) > 1


def load_packed(stack: PackedStack, device: torch.device) -> Batch:
    """Copy a stack of packed rows to the device; on a GPU the copy is asynchronous."""
    return Batch(
        stack=stack,
        inputs=_copied(stack.inputs, device),
        inside=_copied(np.ones_like(stack.inputs, bool), device),
        positions=_copied(stack.predicted, device),
        targets=_copied(stack.targets, device),
        weights=_copied(stack.weights, device),
        lanes=_copied(stack.lanes, device),
        position_ids=_copied(stack.position_ids, device),
        starts=_copied(stack.starts, device),
    )


def load(stack: Stack, device: torch.device, padding: int) -> Batch:
    """Copy a stack to the device; on a GPU the copy is asynchronous.

    Args:
        padding: token id at the positions behind the end of a row.
    """
    inside = np.arange(stack.tokens.shape[1] - 1) < stack.lengths[:, None] - 1
    positions = stack.positions()
    return Batch(
        stack=stack,
        inputs=_copied(np.where(inside, stack.tokens[:, :-1], padding), device),
        inside=_copied(inside, device),
        positions=_copied(positions, device),
        targets=_copied(stack.tokens[:, 1:].ravel()[positions], device),
        weights=_copied(stack.token_weights(), device),
        lanes=_copied(stack.lanes, device),
    )


def _copied(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def prefetch(
    items: Iterable[_Item], make: Callable[[_Item], _Loaded], device: torch.device
) -> Iterator[_Loaded]:
    """Apply ``make`` to each item, in order; for a GPU one item ahead of the consumer, in a thread.

    An error of ``items`` or ``make`` is raised where its result would have been returned.
    """
    results = map(make, items)
    if device.type != "cuda":
        yield from results
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(next, results, None)
        while (loaded := pending.result()) is not None:
            pending = pool.submit(next, results, None)
            yield loaded


def reached(device: torch.device) -> Callable[[], object]:
    """Waits until a device has done what this thread has queued so far, and for nothing later."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.synchronize


def delay_by_one(items: Iterable[_Item]) -> Iterator[_Item]:
    """The items in order, each handed out after the next one has been requested.

    If producing an item queues work on a GPU, and the copy of its result to the host right behind
    it, the GPU computes the next item while the consumer waits for the result of this one and reads
    it. The consumer has to wait for what was `reached` behind the copy: a copy that it queued
    itself would come after the next item.
    """
    waiting: list[_Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting
