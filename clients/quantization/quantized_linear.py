"""A frozen linear layer whose weight is held in 8 or 4 bits, and its gradient by the input.

The codes and scales of a weight are buffers of plain types, made once from the weight alone: no
batch moves a scale, so a row's output depends on this row. Inputs, outputs and gradients stay in
the precision of the base model. The weight in that precision exists while one product is computed,
and is not kept for the backward pass: there it is made once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class QuantizedLinear(nn.Linear):
    """``y = x W^T + b`` with a weight that `weight` makes of codes and scales; it has no gradient.

    For code that asks, it is an ``nn.Linear``: peft takes it for one, and so do families that read
    the type of a layer's weight.

    Args:
        codes: of the weight, in a layout of the subclass.
        scale: factors of the codes.
        shape: (out, in) of the weight.
        bias: (out,), or None.
        dtype: precision of the base model.
    """

    codes: Tensor
    scale: Tensor
    like: Tensor  # (0,) of the base model's precision

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        *,
        shape: Sequence[int],
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear would draw a weight
        self.out_features, self.in_features = shape
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)
        frozen = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", frozen)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in) in the precision of the base model: a copy, made at each call."""
        raise NotImplementedError


class RowScaled(QuantizedLinear):
    """``W = codes * scale``, with codes (out, in) of 8 bits and a scale (out, 1) for each output.

    Codes of 8 bits, as integers or as float8, are exact in bfloat16 and float32, so the product
    with them is scaled, and not the weight: nothing is rounded that the unscaled layer would not.
    """

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in) in the precision of the base model: a copy, made at each call."""
        wide = self.codes.to(self.scale.dtype) * self.scale
        return wide.to(self.like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y: Tensor = _RowScaled.apply(  # type: ignore[no-untyped-call]
            x, self.codes, self.scale, self.bias
        )
        return y


class _RowScaled(torch.autograd.Function):
    """``(x codes^T) * scale + bias``; x is (..., in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """(..., out), in the precision of x."""
        ctx.save_for_backward(codes, scale)
        y = nn.functional.linear(x, codes.to(x.dtype)) * scale.to(x.dtype)[:, 0]
        return y if bias is None else y + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of x, (..., in)."""
        codes, scale = ctx.saved_tensors
        (dy,) = grads
        return (dy * scale.to(dy.dtype)[:, 0]) @ codes.to(dy.dtype), None, None, None


class BlockScaled(QuantizedLinear):
    """NF4 (Dettmers et al., arXiv 2305.14314, section 3): a scale for every 64 numbers of a weight.

    The weight, row after row, is cut into blocks; a number is one of 16 values, times the block's
    largest size. Codes are (out * in / 2, 1) uint8, two in a byte; scales (blocks,) float32.
    """

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in) in the precision of the base model: a copy, made at each call."""
        shape = [self.out_features, self.in_features]
        return _expanded(self.codes, self.scale, shape, self.like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        shape = [self.out_features, self.in_features]
        y: Tensor = _BlockScaled.apply(  # type: ignore[no-untyped-call]
            x, self.codes, self.scale, self.bias, shape
        )
        return y


BLOCK = 64  # numbers of a weight under one scale, as QLoRA has it


def _expanded(codes: Tensor, scale: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """(out, in) weight of this type."""
    weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        codes, scale, BLOCK, "nf4", shape, dtype
    )
    return weight


class _BlockScaled(torch.autograd.Function):
    """``x W^T + bias``; x is (..., in)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        shape: Sequence[int],
    ) -> Tensor:
        """(..., out), in the precision of x."""
        ctx.save_for_backward(codes, scale)
        ctx.shape = shape
        y = nn.functional.linear(x, _expanded(codes, scale, shape, x.dtype))
        return y if bias is None else y + bias  # never a view, which no model could add to in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of x, (..., in)."""
        codes, scale = ctx.saved_tensors
        (dy,) = grads
        return dy @ _expanded(codes, scale, ctx.shape, dy.dtype), None, None, None, None
