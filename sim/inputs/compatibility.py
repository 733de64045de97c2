"""Whether a base model can read the records as the settings cut and join them."""

from __future__ import annotations

from typing import Any

from userdp.clients.models import language_model
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Data, Model


def check_length(asked: Model, base: Any) -> None:
    """Refuse records that are longer than the model has positions."""
    longest = language_model.longest_text(base)
    if longest is not None and asked.seq_len > longest:
        raise ConfigurationError(
            f"model.seq_len={asked.seq_len}: this model has {longest} positions; take fewer."
        )


def check_pairs(data: Data, config: Any, tokenizer: Any) -> None:
    """A record holds token ids alone, not which of two texts each belongs to."""
    if data.text_pair is None or getattr(config, "type_vocab_size", 1) < 2:
        return
    if 1 in tokenizer("a", "b").get("token_type_ids", ()):
        raise ConfigurationError(
            f"data.text_pair={data.text_pair}: this model tells two texts apart by token types, "
            "which are not kept; choose one that does not, as RoBERTa."
        )
