"""Next-token loss of a causal language model at the learned positions of a stack.

Rows are padded behind their end and not masked: no position of a causal model sees later ones.
Packed rows have positions that start again with each record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from userdp.clients.batching.device_batches import Batch
from userdp.clients.models import chunked_loss
from userdp.sim.common.errors import ConfigurationError


class NextToken:
    """The next-token task of a base model, with the adapter that is attached, if any.

    Attributes:
        padding: token id at padded positions.
        head_loss: computes the weighted loss of the head.

    Raises:
        ConfigurationError: some position of the model depends on later ones.
    """

    padding = 0

    def __init__(self, base: Any) -> None:
        def logits(tokens: Tensor) -> Tensor:
            values: Tensor = base(input_ids=tokens, use_cache=False).logits
            return values

        if not is_causal(logits, probe_tokens(base)):
            raise ConfigurationError(
                "model.path: a position of this model sees later ones: not a causal model."
            )
        self._base = base
        self._head = _exact_head(base)
        self.head_loss: chunked_loss.HeadLoss = chunked_loss.head_loss

    @property
    def head(self) -> chunked_loss.Head | None:
        """The output head whose loss ``head_loss`` computes; None: it takes all logits."""
        return self._head

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weighted sum of the losses (scalar), and (predicted tokens,) NLL in nats."""
        if self._head is None:
            nll = nn.functional.cross_entropy(self._logits(batch), batch.targets, reduction="none")
            return batch.weights @ nll, nll
        return self.head_loss(self._hidden(batch), self._head, batch.targets, batch.weights)

    def scores(self, batch: Batch) -> chunked_loss.TokenScores:
        """Losses and hits of the predicted tokens; no gradient flows."""
        if self._head is None:
            return chunked_loss.scores_of_logits(self._logits(batch), batch.targets)
        return chunked_loss.scores(self._hidden(batch), self._head, batch.targets)

    def _logits(self, batch: Batch) -> Tensor:
        """(predicted tokens, vocabulary) float32, by the whole model."""
        logits = self._base(**_read(batch)).logits.flatten(0, 1)
        chosen: Tensor = logits.index_select(0, batch.positions).float()
        return chosen

    def _hidden(self, batch: Batch) -> Tensor:
        """(predicted tokens, width): the last hidden states."""
        hidden = self._base.base_model(**_read(batch)).last_hidden_state
        chosen: Tensor = hidden.flatten(0, 1).index_select(0, batch.positions)
        return chosen


def _read(batch: Batch) -> dict[str, Any]:
    """What a model reads of a batch."""
    read: dict[str, Any] = {"input_ids": batch.inputs, "use_cache": False}
    if batch.position_ids is not None:
        read["position_ids"] = batch.position_ids
    return read


@torch.no_grad()
def _exact_head(base: Any) -> chunked_loss.Head | None:
    """The output head, if it reproduces the model's logits from its last hidden states bit by bit.

    Some families scale or softly cap their logits, by keys of their configuration. For a family
    that transforms them in another way, and for an adapted head, the result is None: the loss is
    then computed from all logits.
    """
    head, config = base.get_output_embeddings(), base.config
    if type(head) is not nn.Linear:
        return None
    tokens = probe_tokens(base)
    output = base.base_model(input_ids=tokens, use_cache=False)
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None or hidden.shape[-1] != head.in_features:
        return None
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    factor /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    candidate = chunked_loss.Head(head.weight, head.bias, factor, cap)
    logits = base(input_ids=tokens, use_cache=False).logits
    return candidate if torch.equal(candidate.logits(hidden), logits) else None


# Largest relative distance that counts as equal, by precision: some layers' rounding, several
# times what tests measure over the families.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@torch.no_grad()
def is_causal(output: Callable[[Tensor], Tensor], tokens: Tensor) -> bool:
    """Whether the first four positions of a model's output do not depend on later tokens.

    The size that a difference is compared with is that of the differences between positions: a
    small model's outputs are small, and what all positions have in common says nothing.

    Args:
        output: (1, positions) int64 -> (1, positions, ...).
        tokens: (1, positions) int64, at least five positions.
    """
    changed = tokens.clone()
    changed[:, 4:] = 0
    first, second = (output(x)[:, :4] for x in (tokens, changed))
    common = first.float().mean(1, keepdim=True).to(first.dtype)
    return close(first - common, second - common)


def close(first: Tensor, second: Tensor) -> bool:
    """Whether two outputs (..., values) are equal up to rounding, relative to the first's norm."""
    tolerance = _TOLERANCE.get(first.dtype, _TOLERANCE[torch.float32])
    distance, size = (first - second).float().norm(), first.float().norm()
    return bool(distance <= tolerance * size)


def probe_tokens(base: Any) -> Tensor:
    """(1, 8) int64: eight token ids of the model's vocabulary, on its device."""
    vocabulary: int = base.get_input_embeddings().num_embeddings
    return (torch.arange(1, 9, device=base.device) % vocabulary)[None]
