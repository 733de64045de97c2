"""The weighted next-token loss of a frozen output head by Liger's fused kernel, on a GPU.

Liger (Hsu et al., arXiv 2410.10989, section 3.2) computes the logits of a few rows at a time, and a
Triton kernel replaces them by their gradient in one pass. Asked for a loss per token, it also gives
the gradient of each token's loss by its own hidden state, so weights are applied to both afterwards
as `userdp.clients.models.chunked_loss` does. It waits for the device once a pass, to count tokens.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from userdp.clients.models.chunked_loss import Head
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.common.errors import ConfigurationError


def use(model: LanguageModel) -> None:
    """Have the model compute its loss by Liger's kernel from now on.

    Raises:
        ConfigurationError: Liger is not installed, or does not compute this model's loss there.
    """
    task = model.next_token
    if task is None or task.head is None:
        raise _refusal("this model's loss is not that of a linear head on its last hidden states")
    if task.head.factor != 1.0:
        raise _refusal(f"this model multiplies its logits by {task.head.factor:g}")
    if model.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise _refusal("its kernel needs a GPU")
    if not _installed():
        raise _refusal("Liger is not installed, pip install 'userdp[liger]'")
    task.head_loss = head_loss


def _installed() -> bool:
    return importlib.util.find_spec("liger_kernel") is not None


def _refusal(why: str) -> ConfigurationError:
    return ConfigurationError(f"engine.loss=liger: {why}; or take engine.loss=chunked.")


def head_loss(
    hidden: Tensor, head: Head, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the token losses; arguments and results are those of the chunked loss.

    Args:
        hidden: (n, width) hidden states at the predicting positions, in the model's precision.
        head: without a factor.
        targets: (n,) int64 tokens to predict.
        weights: (n,) float32.

    Returns:
        The scalar ``weights @ nll``, differentiable in ``hidden``, and ``nll`` (n,) float32 in
        nats, which is not differentiable.

    Raises:
        ValueError: the head has a factor, which Liger does not know.
    """
    if head.factor != 1.0:
        raise ValueError(f"Liger's kernel has no {head.factor=}.")
    total, nll = _FusedLoss.apply(hidden, head, targets, weights)  # type: ignore[no-untyped-call]
    return total, nll


class _FusedLoss(torch.autograd.Function):
    """The loss of `head_loss`, with the gradient computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Head, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum and losses (n,); hidden is (n, width), targets and weights are (n,)."""
        nll, gradient = _fused(hidden, head, targets)
        if hidden.requires_grad:
            ctx.save_for_backward(gradient.mul_(weights[:, None]))
        ctx.mark_non_differentiable(nll)
        return weights @ nll, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the hidden states, (n, width); the head is frozen."""
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None


def _kernel() -> Any:
    return importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")


def _fused(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (n,) float32, and each one's gradient by its hidden state, (n, width).

    The kernel's own autograd function would compute the logits a second time where losses are not
    reduced; its forward pass gives all that is needed. Gradients are there if ``hidden`` wants one.
    """
    nll, *_, gradient, _, _ = _kernel().fused_linear_cross_entropy_forward(
        hidden.contiguous(),
        head.weight,
        targets,
        bias=head.bias,
        reduction="none",
        softcap=head.cap,
    )
    return nll, gradient
