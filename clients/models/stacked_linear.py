"""The stacked linear layer of a classification head: every lane has all of its weights.

``y = x W_s^T + b_s`` for the rows of lane ``s``, with ``W (lanes, out, in)`` and ``b (lanes, out)``
as leaves beside the LoRA factors of `userdp.clients.models.stacked_lora`: the gradient of a leaf is the per-lane
gradient. One lane serves every row (evaluation).
"""

from __future__ import annotations

from torch import Tensor, nn


class StackedLinear(nn.Module):
    """A linear layer that is trained whole; its own weights serve while no leaves are attached."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.weight: Tensor | None = None  # (lanes, out, in)
        self.bias: Tensor | None = None  # (lanes, out), where the layer has one

    def forward(self, x: Tensor) -> Tensor:
        """(rows, ..., in) -> (rows, ..., out); rows are grouped by lane, evenly."""
        if self.weight is None:
            return self.base(x)
        wide = x.reshape(len(self.weight), -1, x.shape[-1])
        y = wide @ self.weight.to(x.dtype).mT
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)[:, None]
        return y.view(*x.shape[:-1], -1)
