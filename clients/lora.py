"""The stacked LoRA layer: every lane of a stack has an adapter of its own.

``y = base(x) + scale * (x A_s^T) B_s^T`` for the rows of lane ``s`` (Hu et al., arXiv 2106.09685),
with the factors of all lanes stacked as leaves ``A (lanes, r, in)`` and ``B (lanes, out, r)``. Each
lane touches its own slice of a leaf and nothing else, so after one backward pass of the summed loss
the gradient of a leaf *is* the per-lane gradient: no hooks, no vmap, no second pass. One lane
serves every row (evaluation).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StackedLora(nn.Module):
    """A frozen linear layer (``nn.Linear`` or ``Conv1D``) with one low-rank adapter per lane."""

    def __init__(self, base: nn.Module, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.a: Tensor | None = None  # (lanes, r, in)
        self.b: Tensor | None = None  # (lanes, out, r)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, positions, in) -> (rows, positions, out); rows are grouped by lane, evenly."""
        y = self.base(x)
        if self.a is None or self.b is None:
            return y
        lanes = len(self.a)
        inner = torch.bmm(x.reshape(lanes, -1, x.shape[-1]), self.a.to(x.dtype).mT)
        wide = y.reshape(lanes, -1, y.shape[-1])
        return torch.baddbmm(wide, inner, self.b.to(x.dtype).mT, alpha=self.scale).view(y.shape)


def attach(layers: list[StackedLora], leaves: list[Tensor]) -> None:
    """Give the layers their leaves: A and B of the first layer, A and B of the second, ..."""
    for layer, a, b in zip(layers, leaves[::2], leaves[1::2], strict=True):
        layer.a, layer.b = a, b


def detach(layers: list[StackedLora]) -> None:
    """Turn the layers back into the base model's own."""
    for layer in layers:
        layer.a = layer.b = None
