"""A stacked linear layer for classification heads, trained whole: every lane has its own weights.

``y = x W_s^T + b_s`` for the rows of lane ``s``, with ``W (lanes, out, in)`` and ``b (lanes, out)``
as leaves beside the LoRA factors of `userdp.clients.models.stacked_lora`: the gradient of a leaf is
the per-lane gradient. With one lane (evaluation) all rows have the same weights.
"""

from __future__ import annotations

from torch import Tensor, nn


class StackedLinear(nn.Module):
    """A linear layer with one set of weights per lane; without leaves it computes ``base``.

    Attributes:
        weight: (lanes, out, in) float32, or None while no leaves are attached.
        bias: (lanes, out) float32, or None also for a layer without bias.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(rows, ..., in) -> (rows, ..., out); consecutive rows / lanes rows belong to a lane."""
        if self.weight is None:
            output: Tensor = self.base(x)
            return output
        wide = x.reshape(len(self.weight), -1, x.shape[-1])
        y = wide @ self.weight.to(x.dtype).mT
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)[:, None]
        return y.view(*x.shape[:-1], -1)
