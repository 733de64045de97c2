"""Classification: one class of a whole text, by the model's own head.

A record is the text's tokens, given, and then its class as the one learned token (`userdp.sim.data.masking`):
so the predicting position is the last of the text, and the target is the class. The class behind
the text is no part of what the model reads. A decoder's head reads the last position of the text,
which sees nothing behind it. An encoder sees every position, so padding is masked, and its own
forward pass says where its head reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from userdp.clients.batching.device_batches import Batch
from userdp.clients.models import next_token
from userdp.sim.common.errors import ConfigurationError


class Classification:
    """What a classifier is asked for; sees the adapter that is attached, if any.

    Raises:
        ConfigurationError: the model reads its text in a way that is not known here.
    """

    def __init__(self, base: Any) -> None:
        self._base = base
        pad = base.config.pad_token_id
        self.padding = 0 if pad is None else pad
        self._decodes = hasattr(base, "score")  # as transformers names a decoder's head
        if not (self._head_reads_last() if self._decodes else self._mask_hides()):
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
        if self._decodes:
            hidden = self._hidden(batch.inputs).flatten(0, 1).index_select(0, batch.positions)
            return self._base.score(hidden).float()
        mask = batch.inside.long()
        return self._base(input_ids=batch.inputs, attention_mask=mask).logits.float()

    def _hidden(self, inputs: Tensor) -> Tensor:
        return self._base.base_model(input_ids=inputs, use_cache=False).last_hidden_state

    @torch.no_grad()
    def _head_reads_last(self) -> bool:
        """Whether no position sees a later one, and the logits are `score` of the last."""
        tokens = self._probe()
        if not next_token.is_causal(self._hidden, tokens, self._tolerance):
            return False
        logits = self._base.score(self._hidden(tokens)[:, -1])
        return self._close(logits, self._base(input_ids=tokens).logits)

    @torch.no_grad()
    def _mask_hides(self) -> bool:
        """Whether masked tokens behind a text change nothing."""
        tokens = self._probe()
        padded, mask = tokens.clone(), torch.ones_like(tokens)
        padded[:, 4:], mask[:, 4:] = self.padding, 0
        alone = self._base(input_ids=tokens[:, :4]).logits
        return self._close(alone, self._base(input_ids=padded, attention_mask=mask).logits)

    def _close(self, first: Tensor, second: Tensor) -> bool:
        return torch.allclose(first, second, rtol=self._tolerance, atol=self._tolerance)

    @property
    def _tolerance(self) -> float:
        return 1e-4 if self._base.dtype == torch.float32 else 1e-2

    def _probe(self) -> Tensor:
        """(1, 8) tokens, none of them the one that the model pads by."""
        tokens = next_token.probe(self._base)
        return torch.where(tokens == self.padding, 0, tokens)
