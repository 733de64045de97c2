"""Weighted next-token loss of a frozen output head, computed over chunks of the logits.

The head takes no gradient, so the gradient with respect to the hidden states is known as soon as
the logits of a chunk are. It is computed in the forward pass, chunk by chunk, and the logits are
dropped: memory is that of one chunk whatever the vocabulary, and the softmax is evaluated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Logits per chunk, by device: few enough to cost a CPU little memory, enough to keep a GPU busy.
_CHUNK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 27}
_CHUNK_ROWS = 96  # at least, of a large vocabulary: each chunk reads the whole head


class Head(NamedTuple):
    """A linear output head with optional scale and soft cap of its logits.

    ``logits = factor * (hidden weight^T + bias)``, then ``cap * tanh(logits / cap)`` if capped.
    """

    weight: Tensor  # (vocabulary, width)
    bias: Tensor | None = None  # (vocabulary,)
    factor: float = 1.0
    cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, width) -> (n, vocabulary), in the precision of the model."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias)
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of ``logits (n, vocabulary)`` by the linear layer's output, elementwise.

        Returns:
            (n, vocabulary), or a number where it is the same everywhere.
        """
        return self.factor if self.cap is None else self.factor * (1 - (logits / self.cap) ** 2)


class TokenScores(NamedTuple):
    """How well some tokens were predicted."""

    nll: Tensor  # (n,) float32, nats
    right: Tensor  # (n,) bool: the token is the likeliest one, the first of several


# Of hidden states, head, targets and weights, as `head_loss` has them.
HeadLoss = Callable[[Tensor, Head, Tensor, Tensor], tuple[Tensor, Tensor]]


# Losses (n,) float32 of hidden states (n, width), head and targets (n,), and each one's gradient by
# its own hidden state, (n, width), which may be written to; None where the states need none.
TokenLosses = Callable[[Tensor, Head, Tensor], tuple[Tensor, Tensor | None]]


class _WeightedLoss(torch.autograd.Function):
    """The loss of `weighted`, whose gradient is known with the losses."""

    @staticmethod
    def forward(ctx: Any, compute: TokenLosses, hidden: Tensor, head: Head, targets: Tensor,
                weights: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Weighted sum and losses (n,); hidden is (n, width), targets and weights are (n,)."""
        nll, gradient = compute(hidden, head, targets)
        if gradient is not None:
            ctx.save_for_backward(gradient.mul_(weights[:, None]))
        ctx.mark_non_differentiable(nll)
        return weights @ nll, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the hidden states, (n, width); the head is frozen."""
        (gradient,) = ctx.saved_tensors
        return None, gradient * grads[0].to(gradient.dtype), None, None, None


def weighted(compute: TokenLosses, hidden: Tensor, head: Head, targets: Tensor,
             weights: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weighted sum of token losses that are computed together with their gradients.

    Args:
        compute: losses and gradients, without weights.
        hidden: (n, width); this and the rest are those of `head_loss`, and so are the results.
    """
    total, nll = _WeightedLoss.apply(  # type: ignore[no-untyped-call]
        compute, hidden, head, targets, weights
    )
    return total, nll


def head_loss(hidden: Tensor, head: Head, targets: Tensor,
              weights: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weighted sum of the token losses.

    Args:
        hidden: (n, width) hidden states at the predicting positions, in the model's precision.
        targets: (n,) int64 tokens to predict.
        weights: (n,) float32.

    Returns:
        The scalar ``weights @ nll``, differentiable in ``hidden``, and ``nll`` (n,) float32 in
        nats, which is not differentiable.
    """
    return weighted(_in_chunks, hidden, head, targets, weights)


def _in_chunks(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """`TokenLosses` over chunks of the logits; hidden is (n, width), targets (n,)."""
    nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    gradient = torch.empty_like(hidden) if hidden.requires_grad else None
    for part, logits in _chunks(hidden, head):
        index = targets[part, None]
        # The largest probability is 1 / sum(exp(logits - max)), so log-sum-exp needs no second
        # pass of exponentials.
        probabilities = torch.softmax(logits, dim=1)
        log_sum_exp = logits.amax(1) - probabilities.amax(1).log()
        nll[part] = log_sum_exp - logits.gather(1, index).squeeze(1)
        if gradient is not None:
            probabilities.scatter_add_(1, index, probabilities.new_full(index.shape, -1.0))
            if head.factor != 1.0 or head.cap is not None:
                probabilities *= head.slope(logits)
            torch.mm(probabilities.to(head.weight.dtype), head.weight, out=gradient[part])
    return nll, gradient


def scores(hidden: Tensor, head: Head, targets: Tensor) -> TokenScores:
    """Losses and hits of some tokens; no gradient flows.

    Args:
        hidden: (n, width) hidden states at the predicting positions, in the model's precision.
        targets: (n,) int64.
    """
    parts = [scores_of_logits(logits, targets[part]) for part, logits in _chunks(hidden, head)]
    return TokenScores(*map(torch.cat, zip(*parts, strict=True)))


def scores_of_logits(logits: Tensor, targets: Tensor) -> TokenScores:
    """The same of logits (n, vocabulary) float32 and targets (n,) int64."""
    own = logits.gather(1, targets[:, None]).squeeze(1)
    return TokenScores(torch.logsumexp(logits, 1) - own, logits.argmax(1) == targets)


def _chunks(hidden: Tensor, head: Head) -> Iterator[tuple[slice, Tensor]]:
    """Slices of hidden states (n, width), and their logits (rows, vocabulary) float32."""
    step = max(_CHUNK_ROWS, _CHUNK_LOGITS[hidden.device.type] // len(head.weight))
    for start in range(0, len(hidden), step):
        part = slice(start, start + step)
        yield part, head.logits(hidden[part]).float()
