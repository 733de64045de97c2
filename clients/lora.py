"""The stacked LoRA layer: every lane of a stack has an adapter of its own.

``y = base(x) + scale * (x A_s^T) B_s^T`` for the rows of lane ``s`` (Hu et al., arXiv 2106.09685),
with the factors of all lanes stacked as leaves ``A (lanes, r, in)`` and ``B (lanes, out, r)``. Each
lane touches its own slice of a leaf and nothing else, so after one backward pass of the summed loss
the gradient of a leaf *is* the per-lane gradient: no hooks, no vmap, no second pass. One lane
serves every row (evaluation).

With A frozen (FFA-LoRA, Sun et al., arXiv 2403.12313) all lanes share one A that never moves, and
only B is a leaf: the mean of the lanes' products ``B_s A`` is then the product of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Place(NamedTuple):
    """Where a leaf goes while a stack is computed: an attribute of a stacked module."""

    module: nn.Module
    attribute: str


class StackedLora(nn.Module):
    """A frozen linear layer (``nn.Linear`` or ``Conv1D``) with one low-rank adapter per lane."""

    def __init__(self, base: nn.Module, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.a: Tensor | None = None  # (lanes, r, in)
        self.b: Tensor | None = None  # (lanes, out, r)
        self.frozen_a: Tensor | None = None  # (r, in), of all lanes, in the place of leaves

    def forward(self, x: Tensor) -> Tensor:
        """(rows, positions, in) -> (rows, positions, out); rows are grouped by lane, evenly."""
        y = self.base(x)
        if self.b is None:
            return y
        lanes = len(self.b)
        inner = self._inner(x.reshape(lanes, -1, x.shape[-1]))
        wide = y.reshape(lanes, -1, y.shape[-1])
        return torch.baddbmm(wide, inner, self.b.to(x.dtype).mT, alpha=self.scale).view(y.shape)

    def _inner(self, x: Tensor) -> Tensor:
        """(lanes, n, in) -> (lanes, n, r)."""
        if self.a is not None:
            return torch.bmm(x, self.a.to(x.dtype).mT)
        if self.frozen_a is None:
            raise ValueError("A lane has a leaf for B, but there is no A.")
        return x @ self.frozen_a.to(x.dtype).mT


def attach(places: Sequence[Place], leaves: Sequence[Tensor]) -> None:
    """Put each leaf where it belongs."""
    for place, leaf in zip(places, leaves, strict=True):
        setattr(place.module, place.attribute, leaf)


def detach(places: Sequence[Place]) -> None:
    """Turn the modules back into the base model's own."""
    for place in places:
        setattr(place.module, place.attribute, None)
