"""The weighted next-token loss of a frozen output head by Liger's fused kernel, on a GPU.

Liger (Hsu et al., arXiv 2410.10989, section 3.2) computes the logits of a few rows at a time, and a
Triton kernel replaces them by their gradient in one pass. Asked for a loss per token, it also gives
the gradient of each token's loss by its own hidden state, so `userdp.clients.models.chunked_loss`
applies the weights to both afterwards.

It waits for the device once a pass: before its first kernel Liger reads on the host how many
targets count, a number that only averages use. The count comes between what is public of Liger and
the kernel, whose own arguments change with its versions; so the wait stays.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

from torch import Tensor

from userdp.clients.models import chunked_loss
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
    return chunked_loss.weighted(_fused, hidden, head, targets, weights)


def _kernel() -> Any:
    return importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")


def _fused(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """`chunked_loss.TokenLosses` by Liger; hidden is (n, width), targets (n,).

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
    return nll, gradient if hidden.requires_grad else None
