"""Next-token prediction: the loss of a causal language model at the learned positions of a stack.

Rows are padded behind their end without a mask, which a causal model never sees.
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
    """What a causal model is asked for; ``losses`` sees the adapter that is attached, if any."""

    padding = 0

    def __init__(self, base: Any) -> None:
        if not is_causal(lambda x: base(input_ids=x, use_cache=False).logits, probe(base)):
            raise ConfigurationError(
                "model.path: a position of this model sees later ones: not a causal model."
            )
        self._base = base
        self._head = _known_head(base)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weighted sum of the losses (scalar), and (predicted tokens,) NLL in nats."""
        if self._head is None:
            logits = self._base(input_ids=batch.inputs, use_cache=False).logits.flatten(0, 1)
            chosen = logits.index_select(0, batch.positions).float()
            nll = nn.functional.cross_entropy(chosen, batch.targets, reduction="none")
            return batch.weights @ nll, nll
        hidden = self._base.base_model(input_ids=batch.inputs, use_cache=False).last_hidden_state
        chosen = hidden.flatten(0, 1).index_select(0, batch.positions)
        return chunked_loss.head_loss(chosen, self._head, batch.targets, batch.weights)


@torch.no_grad()
def _known_head(base: Any) -> chunked_loss.Head | None:
    """The output head, if it gives the model's logits of its last hidden states, to the last bit.

    Some families scale or softly cap their logits, by keys of their configuration; a family that
    does it in a way not known here, or an adapted head, takes the path over whole logits.
    """
    head, config = base.get_output_embeddings(), base.config
    if type(head) is not nn.Linear:
        return None
    tokens = probe(base)
    hidden = base.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    if hidden.shape[-1] != head.in_features:
        return None
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    factor /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    known = chunked_loss.Head(head.weight, head.bias, factor, cap)
    wanted = base(input_ids=tokens, use_cache=False).logits
    return known if torch.equal(known.logits(hidden), wanted) else None


@torch.no_grad()
def is_causal(output: Callable[[Tensor], Tensor], tokens: Tensor, tolerance: float = 1e-2) -> bool:
    """Whether no position of ``output(tokens)`` (1, positions, ...) depends on a later token."""
    changed = tokens.clone()
    changed[:, 4:] = 0
    first, second = (output(x)[:, :4].float() for x in (tokens, changed))
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance)


def probe(base: Any) -> Tensor:
    """(1, 8) int64: some tokens of the model."""
    vocabulary = base.get_input_embeddings().num_embeddings
    return (torch.arange(1, 9, device=base.device) % vocabulary)[None]
