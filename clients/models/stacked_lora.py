"""The stacked LoRA layer: every lane of a stack has an adapter of its own.

``y = base(x) + scale * (x A_s^T) B_s^T`` for the rows of lane ``s`` (Hu et al., arXiv 2106.09685),
with the factors of all lanes stacked as leaves ``A (lanes, r, in)`` and ``B (lanes, out, r)``. Each
lane touches its own slice of a leaf and nothing else, so after one backward pass of the summed loss
the gradient of a leaf *is* the per-lane gradient: no hooks, no vmap, no second pass. One lane
serves every row (evaluation).

Lanes that start from one adapter share its memory (a leaf that is expanded, of stride 0). What does
not tell lanes apart is then one matrix product over all rows, as in plain training; only the
gradients of the factors are batched products, a lane each.

With A frozen (FFA-LoRA, Sun et al., arXiv 2403.12313) all lanes share one A that never moves, and
only B is a leaf: the mean of the lanes' products ``B_s A`` is then the product of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
        a = self.a if self.frozen_a is None else self.frozen_a.expand(lanes, -1, -1)
        if a is None:
            raise ValueError("A lane has a leaf for B, but there is no A.")
        rows, wide = x.reshape(lanes, -1, x.shape[-1]), y.reshape(lanes, -1, y.shape[-1])
        return _LowRank.apply(rows, wide, a, self.b, self.scale).view(y.shape)


class _LowRank(torch.autograd.Function):
    """``y + scale * (x A^T) B^T`` of lanes ``x (lanes, n, in)``, ``y (lanes, n, out)``.

    What is narrow keeps the rank in front, ``(lanes, r, n)``: as the last dimension it would cost
    up to four times as much on a CPU. Factors are float32, products in the precision of ``x``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        inner = _down(x, _as(a, x.dtype), scale)
        ctx.save_for_backward(x, inner, a, b)
        ctx.scale = scale
        return _up(y, inner, _as(b, x.dtype).mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, a, b = ctx.saved_tensors
        (dy,) = grads
        to_x, _, to_a, _, _ = ctx.needs_input_grad
        dinner = _down(dy, _as(b, x.dtype).mT, ctx.scale)
        dx = _up(None, dinner, _as(a, x.dtype)) if to_x else None
        da = torch.bmm(dinner, x).to(a.dtype) if to_a else None
        return dx, dy, da, torch.bmm(inner, dy).to(b.dtype).mT, None


def _shared(factor: Tensor) -> bool:
    """Whether all lanes have the same factor, held once."""
    return len(factor) == 1 or factor.stride(0) == 0


def _as(factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast without giving shared lanes a copy each."""
    return factor[:1].to(dtype).expand_as(factor) if _shared(factor) else factor.to(dtype)


def _down(x: Tensor, factor: Tensor, scale: float) -> Tensor:
    """``scale * factor x^T``: (lanes, n, wide) and (lanes, r, wide) -> (lanes, r, n)."""
    if not _shared(factor):
        return torch.bmm(factor, x.mT).mul_(scale)
    narrow = torch.mm(factor[0], x.flatten(0, 1).mT).mul_(scale)
    return narrow.view(-1, *x.shape[:2]).transpose(0, 1)


def _up(y: Tensor | None, inner: Tensor, factor: Tensor) -> Tensor:
    """``y + inner^T factor``: (lanes, r, n) and (lanes, r, wide) -> (lanes, n, wide)."""
    if not _shared(factor):
        return torch.bmm(inner.mT, factor) if y is None else torch.baddbmm(y, inner.mT, factor)
    lanes, _, n = inner.shape
    narrow = inner.transpose(0, 1).flatten(1).mT  # (lanes n, r), a view
    if y is None:
        wide = torch.mm(narrow, factor[0])
    else:
        wide = torch.addmm(y.flatten(0, 1), narrow, factor[0])
    return wide.view(lanes, n, -1)


def attach(places: Sequence[Place], leaves: Sequence[Tensor]) -> None:
    """Put each leaf where it belongs."""
    for place, leaf in zip(places, leaves, strict=True):
        setattr(place.module, place.attribute, leaf)


def detach(places: Sequence[Place]) -> None:
    """Turn the modules back into the base model's own."""
    for place in places:
        setattr(place.module, place.attribute, None)
