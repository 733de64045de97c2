"""A stack on its way to the device: its tensors, and the next block's made while this one computes.

On a GPU the host selects, packs and copies one block ahead, in a thread, from pinned memory: the
device never waits for it, and nothing waits for the device. On a CPU there is nobody to work ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from userdp.clients.batching.packing import Stack

_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A stack's tensors on the device."""

    stack: Stack
    inputs: Tensor  # (rows, positions) int64 tokens to read
    inside: Tensor  # (rows, positions) bool: no padding
    positions: Tensor  # (predicted tokens,) int64 into flattened inputs
    targets: Tensor  # (predicted tokens,) int64
    weights: Tensor  # (predicted tokens,) float32
    lanes: Tensor  # (lanes of the stack,) int64 lanes of the block


def load(stack: Stack, device: torch.device, padding: int) -> Batch:
    """Copy a stack to the device without waiting for it; ``padding`` fills what no text reaches."""
    inside = np.arange(stack.tokens.shape[1] - 1) < stack.lengths[:, None] - 1
    positions = stack.positions()

    def put(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if device.type != "cuda":
            return tensor.to(device)
        return tensor.pin_memory().to(device, non_blocking=True)

    return Batch(
        stack=stack,
        inputs=put(np.where(inside, stack.tokens[:, :-1], padding)),
        inside=put(inside),
        positions=put(positions),
        targets=put(stack.tokens[:, 1:].ravel()[positions]),
        weights=put(stack.token_weights()),
        lanes=put(stack.lanes),
    )


def ahead(
    items: Iterable[_Item], make: Callable[[_Item], _Loaded], device: torch.device
) -> Iterator[_Loaded]:
    """``make`` of each item, in order; on a GPU one ahead of what is asked for."""
    if device.type != "cuda":
        yield from map(make, items)
        return
    made = map(make, items)
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, made, None)
        while (loaded := following.result()) is not None:
            following = pool.submit(next, made, None)
            yield loaded


def behind(items: Iterable[_Item]) -> Iterator[_Item]:
    """The items, each handed out once the next is there: a GPU computes that one meanwhile."""
    held: list[_Item] = []
    for item in items:
        held.append(item)
        if len(held) > 1:
            yield held.pop(0)
    yield from held
