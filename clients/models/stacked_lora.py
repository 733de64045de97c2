"""A stacked LoRA layer: every lane of a stack has its own low-rank adapter.

``y = base(x) + scale * (x A_s^T) B_s^T`` for the rows of lane ``s`` (LoRA, Hu et al., arXiv
2106.09685, section 4.1), with the factors of all lanes stacked as leaves ``A (lanes, r, in)`` and
``B (lanes, out, r)``. Each lane uses its own slice of a leaf only, so the gradient of the summed
loss with respect to a leaf is the stack of per-lane gradients: one backward pass gives all of them,
without hooks or vmap. With one lane (evaluation) all rows have the same adapter.

Lanes that start from one adapter share its memory (an expanded leaf, of stride 0). What is equal
for all lanes is then one matrix product over all rows, as in plain training, and only the gradients
of the factors are batched products with one entry per lane.

The gradient of a leaf may be given a destination, a part of the matrix that holds those of all
leaves lane by lane: the products are written there, and need no copy. Autograd passes on what a
backward function returns, so the destination itself is the leaf's gradient. Where a layer is called
twice, the first call gets it, and autograd adds up both in a tensor of its own. Compiled layers get
none: what is traced ahead of time should not write to what it did not make.

With A frozen (FFA-LoRA, Sun et al., arXiv 2403.12313) all lanes share one constant A, and only B is
a leaf: the mean of the lanes' products ``B_s A`` then equals the product of the mean of ``B_s``
and A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from userdp.clients.kernels import lane_products, lane_rows


class Place(NamedTuple):
    """Where a leaf is attached while a stack is computed: an attribute of a stacked module."""

    module: nn.Module
    attribute: str


class StackedLora(nn.Module):
    """A frozen linear layer (``nn.Linear`` or ``Conv1D``) with one low-rank adapter per lane.

    Attributes:
        a: (lanes, r, in) float32, or None while no leaves are attached or where A is frozen.
        b: (lanes, out, r) float32, or None while no leaves are attached.
        frozen_a: (r, in) float32, the A of all lanes where it is frozen.
        starts: (lanes + 1,) int32, where each lane begins in the flattened positions of packed
            rows; None where all lanes have as many rows.
        destinations: where the gradients of ``a`` and ``b`` go, by attribute, in the shape of the
            leaf; a backward pass takes one away before it is written. Without one a leaf's
            gradient is a new tensor.
    """

    def __init__(self, base: nn.Module, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self.frozen_a: Tensor | None = None
        self.starts: Tensor | None = None
        self.destinations: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(rows, positions, in) -> (rows, positions, out).

        Consecutive rows / lanes rows belong to a lane, or what ``starts`` says. Without leaves the
        result is ``base(x)``.

        Raises:
            ValueError: leaves for B are attached, but there is no A.
        """
        y: Tensor = self.base(x)
        adapted: Tensor
        if self.b is None:
            return y
        lanes = len(self.b)
        a = self.a if self.frozen_a is None else self.frozen_a.expand(lanes, -1, -1)
        if a is None:
            raise ValueError("The leaf for B is attached, but there is no A.")
        destinations = None if torch.compiler.is_compiling() else self.destinations
        if self.starts is not None:
            adapted = _RaggedLowRank.apply(  # type: ignore[no-untyped-call]
                x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), a, self.b, self.starts,
                self.scale, destinations,
            )  # fmt: skip
            return adapted.view(y.shape)
        rows, wide = x.reshape(lanes, -1, x.shape[-1]), y.reshape(lanes, -1, y.shape[-1])
        adapted = _LowRank.apply(  # type: ignore[no-untyped-call]
            rows, wide, a, self.b, self.scale, destinations
        )
        return adapted.view(y.shape)

    @property
    def weight(self) -> Tensor:
        """(out, in), the base layer's, for code that asks for its type; (in, out) of a Conv1D."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """(out,), the base layer's."""
        return self.base.bias  # type: ignore[return-value]


class _LowRank(torch.autograd.Function):
    """``y + scale * (x A^T) B^T`` of lanes ``x (lanes, n, in)``, ``y (lanes, n, out)``.

    Low-rank intermediates are kept as ``(lanes, r, n)``: with the rank as the last dimension they
    would cost up to four times as much on a CPU. Factors are float32, products in the precision of
    ``x``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float,
                destinations: dict[str, Tensor] | None) -> Tensor:  # fmt: skip
        """``y`` with the adapters' part added, (lanes, n, out)."""
        inner = _down(x, _cast(a, x.dtype), scale)
        ctx.save_for_backward(x, inner, a, b)
        ctx.scale, ctx.destinations = scale, destinations
        return _up(y, inner, _cast(b, x.dtype).mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x (lanes, n, in), y (lanes, n, out), and the factors of every lane."""
        x, inner, a, b = ctx.saved_tensors
        (dy,) = grads
        x_needs_grad, _, a_needs_grad, *_ = ctx.needs_input_grad
        dinner = _down(dy, _cast(b, x.dtype).mT, ctx.scale)
        dx = _up(None, dinner, _cast(a, x.dtype)) if x_needs_grad else None
        da = lane_products.batched(dinner, x, _taken(ctx, "a")) if a_needs_grad else None
        out = _taken(ctx, "b")
        turned = lane_products.batched(inner, dy, None if out is None else out.mT)
        return dx, dy, da, turned.mT if out is None else out, None, None


class _RaggedLowRank(torch.autograd.Function):
    """The same for positions ``x (n, in)``, ``y (n, out)`` of which each lane owns a range.

    Low-rank intermediates are ``(n, r)``. Where all lanes share the memory of one A and one B, only
    the gradients of the factors are by lane; otherwise all products with factors are.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, starts: Tensor, scale: float,
                destinations: dict[str, Tensor] | None) -> Tensor:  # fmt: skip
        """``y`` with the adapters' part added, (n, out)."""
        inner = _ranges(x, a.mT, starts).mul_(scale)
        ctx.save_for_backward(x, inner, a, b, starts)
        ctx.scale, ctx.destinations = scale, destinations
        return _ranges(inner, b.mT, starts, y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x (n, in), y (n, out), and the factors of every lane."""
        x, inner, a, b, starts = ctx.saved_tensors
        (dy,) = grads
        x_needs_grad, _, a_needs_grad, *_ = ctx.needs_input_grad
        dinner = _ranges(dy, b, starts).mul_(ctx.scale)
        dx = _ranges(dinner, a, starts) if x_needs_grad else None
        da = lane_products.by_lane(dinner, x, starts, _taken(ctx, "a")) if a_needs_grad else None
        db = lane_products.by_lane(dy, inner, starts, _taken(ctx, "b"))
        return dx, dy, da, db, None, None, None


def _taken(ctx: Any, name: str) -> Tensor | None:
    """Where a leaf's gradient (lanes, ., .) goes, which no later call gets; None: a new tensor."""
    taken: Tensor | None = ctx.destinations.pop(name, None) if ctx.destinations else None
    return taken


def _ranges(x: Tensor, factor: Tensor, starts: Tensor, y: Tensor | None = None) -> Tensor:
    """``y + x factor`` by lane: (n, k) and (lanes, k, q), cast to the type of x -> (n, q)."""
    if _is_shared(factor):
        one = factor[0].to(x.dtype)
        return torch.mm(x, one) if y is None else torch.addmm(y, x, one)
    product = lane_rows.by_lane(x, factor.to(x.dtype), starts)
    return product if y is None else product.add_(y)


def _is_shared(factor: Tensor) -> bool:
    """Whether all lanes of a factor (lanes, ., .) are one and the same matrix in memory."""
    return len(factor) == 1 or factor.stride(0) == 0


def _cast(factor: Tensor, dtype: torch.dtype) -> Tensor:
    """A factor (lanes, ., .) in ``dtype``; a shared one stays shared."""
    return factor[:1].to(dtype).expand_as(factor) if _is_shared(factor) else factor.to(dtype)


def _down(x: Tensor, factor: Tensor, scale: float) -> Tensor:
    """``scale * factor x^T``: (lanes, n, wide) and (lanes, r, wide) -> (lanes, r, n)."""
    if not _is_shared(factor):
        return torch.bmm(factor, x.mT).mul_(scale)
    narrow = torch.mm(factor[0], x.flatten(0, 1).mT).mul_(scale)
    return narrow.view(-1, *x.shape[:2]).transpose(0, 1)


def _up(y: Tensor | None, inner: Tensor, factor: Tensor) -> Tensor:
    """``y + inner^T factor``: (lanes, r, n) and (lanes, r, wide) -> (lanes, n, wide)."""
    if not _is_shared(factor):
        return torch.bmm(inner.mT, factor) if y is None else torch.baddbmm(y, inner.mT, factor)
    lanes, _, n = inner.shape
    narrow = inner.transpose(0, 1).flatten(1).mT  # (lanes n, r), a view
    if y is None:
        wide = torch.mm(narrow, factor[0])
    else:
        wide = torch.addmm(y.flatten(0, 1), narrow, factor[0])
    # Not a view: autograd forbids in-place operations on views that a function returns, and some
    # models add to the output of a layer in place (Falcon).
    shaped: Tensor = torch.ops.aten._unsafe_view.default(wide, (lanes, n, wide.shape[-1]))
    return shaped


def attach(
    places: Sequence[Place],
    leaves: Sequence[Tensor],
    starts: Tensor | None = None,
    destinations: Sequence[Tensor] = (),
) -> None:
    """Set each leaf (lanes, ...) as the attribute that its place names, in the same order.

    Args:
        starts: of packed rows, as `StackedLora` has it.
        destinations: of the leaves' gradients, of the same shapes; empty: new tensors.
    """
    for place, leaf in zip(places, leaves, strict=True):
        setattr(place.module, place.attribute, leaf)
        place.module.starts = starts  # type: ignore[assignment]
    for place, destination in zip(places, destinations, strict=bool(destinations)):
        if isinstance(place.module, StackedLora):
            place.module.destinations[place.attribute] = destination


def detach(places: Sequence[Place]) -> None:
    """Remove all leaves: the modules compute the base model's layers again."""
    for place in places:
        setattr(place.module, place.attribute, None)
        place.module.starts = None  # type: ignore[assignment]
        if isinstance(place.module, StackedLora):
            place.module.destinations = {}
