"""Loss and logits of text classification: one class per text, by the model's own head.

A record is the tokens of a text, which are read but not predicted, and then its class as the one
learned token (`userdp.sim.data.masking`). The predicting position is therefore the last one of the
text, and the target is the class; the model never reads the class.

A decoder's head reads the last position of the text, which no later position influences. An encoder
sees every position, so padding is masked, and its own forward pass finds the position to read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from userdp.clients.batching.device_batches import Batch
from userdp.clients.models import next_token
from userdp.sim.common.errors import ConfigurationError


class Classification:
    """The classification task of a base model, with the adapter that is attached, if any.

    Attributes:
        padding: token id at padded positions.

    Raises:
        ConfigurationError: on some tokens of the model, its head reads neither the last position
            alone (decoder) nor the unmasked positions alone (encoder).
    """

    def __init__(self, base: Any) -> None:
        self._base = base
        pad = base.config.get_text_config().pad_token_id
        self.padding = 0 if pad is None else pad
        self._is_decoder = hasattr(base, "score")  # transformers' name of a decoder's head
        if not (self._head_reads_last() if self._is_decoder else self._ignores_masked()):
            raise ConfigurationError(
                "model.path: this model's head does not read its text as a GPT-2, a Llama or a "
                "RoBERTa does; choose a model that does."
            )

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weighted sum of the losses (scalar), and (rows,) NLL of each row's class in nats."""
        nll = nn.functional.cross_entropy(self.logits(batch), batch.targets, reduction="none")
        return batch.weights @ nll, nll

    def logits(self, batch: Batch) -> Tensor:
        """(rows, classes) float32."""
        logits: Tensor
        if self._is_decoder:
            hidden = self._hidden(batch.inputs).flatten(0, 1).index_select(0, batch.positions)
            logits = self._base.score(hidden)
        else:
            mask = batch.inside.long()
            logits = self._base(input_ids=batch.inputs, attention_mask=mask).logits
        return logits.float()

    def _hidden(self, inputs: Tensor) -> Tensor:
        """(rows, positions) int64 -> (rows, positions, width), the last hidden states."""
        hidden: Tensor = self._base.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        return hidden

    @torch.no_grad()
    def _head_reads_last(self) -> bool:
        """Whether the model is causal and its logits are ``score`` of the last position."""
        tokens = self._probe()
        if not next_token.is_causal(self._hidden, tokens):
            return False
        logits = self._base.score(self._hidden(tokens)[:, -1])
        return next_token.close(logits, self._base(input_ids=tokens, use_cache=False).logits)

    @torch.no_grad()
    def _ignores_masked(self) -> bool:
        """Whether masked tokens behind a text leave its logits as they are."""
        tokens = self._probe()
        padded, mask = tokens.clone(), torch.ones_like(tokens)
        padded[:, 4:], mask[:, 4:] = self.padding, 0
        alone = self._base(input_ids=tokens[:, :4]).logits
        return next_token.close(alone, self._base(input_ids=padded, attention_mask=mask).logits)

    def _probe(self) -> Tensor:
        """(1, 8) int64 tokens of the model, none of them its padding token."""
        tokens = next_token.probe_tokens(self._base)
        return torch.where(tokens == self.padding, 0, tokens)
