"""Weighted next-token loss of a frozen output head, without ever holding all its logits.

The head takes no gradient, so the gradient with respect to the hidden states is known as soon as
the logits of a chunk are: it is computed in the forward pass, chunk by chunk, and the logits are
dropped. A vocabulary of 50,000 then costs the memory of one chunk, and the softmax is evaluated
once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK_LOGITS = 1 << 17  # float32 logits held at a time: 16 MiB


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
                weights: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        step = max(1, _CHUNK_LOGITS // len(weight))
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            index = targets[part, None]
            # The likeliest token's share is 1 / sum(exp(logits - top)): one pass of exponentials.
            share = torch.softmax(logits, dim=1)
            normaliser = logits.amax(1) - share.amax(1).log()
            nll[part] = normaliser - logits.gather(1, index).squeeze(1)
            if hidden.requires_grad:
                share.scatter_add_(1, index, share.new_full(index.shape, -1.0))
                torch.mm(share.to(weight.dtype), weight, out=gradient[part])
        ctx.save_for_backward(gradient.mul_(weights[:, None]))
        ctx.mark_non_differentiable(nll)
        return weights @ nll, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None, None


def head_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
              weights: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weighted sum of token losses.

    Args:
        hidden: (n, width) hidden states at the predicting positions.
        weight: (vocabulary, width) of the frozen head; bias (vocabulary,) or None.
        targets: (n,) int64 tokens to predict. weights: (n,) float32.

    Returns:
        The scalar ``weights @ nll``, differentiable in ``hidden``, and ``nll`` (n,) in nats.
    """
    return _HeadLoss.apply(hidden, weight, bias, targets, weights)
