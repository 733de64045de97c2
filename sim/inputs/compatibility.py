"""Checks that a base model can read records of the configured length and form."""

from __future__ import annotations

from typing import Any

from userdp.clients.models import language_model
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.data import Data
from userdp.sim.config.settings import Model


def check_length(settings: Model, base: Any) -> None:
    """Check that the model has positions for the longest sequence.

    Args:
        base: the base model, a Transformers module.

    Raises:
        ConfigurationError: ``model.seq_len`` is larger than its number of positions.
    """
    longest = language_model.longest_text(base)
    if longest is not None and settings.seq_len > longest:
        raise ConfigurationError(
            f"model.seq_len={settings.seq_len}: this model has {longest} positions; choose fewer."
        )


def check_tokens(base: Any, tokenizer: Any) -> None:
    """Check that the model can read every token that its tokenizer makes.

    Args:
        base: the base model, a Transformers module.
        tokenizer: of the base model, a Transformers tokenizer.

    Raises:
        ConfigurationError: some token's id lies behind the model's table of embeddings.
    """
    largest, count = max(tokenizer.get_vocab().values(), default=0), language_model.vocabulary(base)
    if largest >= count:
        raise ConfigurationError(
            f"model.path: the tokenizer has ids up to {largest}, but the model reads {count}; "
            "store the model again after resize_token_embeddings(len(tokenizer))."
        )


def check_pairs(data: Data, config: Any, tokenizer: Any) -> None:
    """Check that the model needs no token types, if a record joins two texts.

    A stored record has token ids alone, and not which of the two texts each belongs to.

    Args:
        config: of the base model.
        tokenizer: of the base model, a Transformers tokenizer.

    Raises:
        ConfigurationError: its tokenizer gives the second text another token type.
    """
    if data.text_pair is None or getattr(config, "type_vocab_size", 1) < 2:
        return
    if 1 in tokenizer("a", "b").get("token_type_ids", ()):
        raise ConfigurationError(
            f"data.text_pair={data.text_pair}: this model tells two texts apart by token types, "
            "which are not stored; choose one without them, such as RoBERTa."
        )
