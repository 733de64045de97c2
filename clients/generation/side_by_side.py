"""Writes texts by a base model and by the same model with its adapter, after public prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from userdp.clients.generation.sample import Sample
from userdp.clients.generation.sampling import Sampling, continuations
from userdp.clients.tokenization import prompts as prompt_ids


def samples(
    adapted: Any, tokenizer: Any, prompts: Sequence[str], sampling: Sampling, *, chat: bool
) -> list[Sample]:
    """One sample for each prompt; both sides are drawn with the same random numbers.

    Args:
        adapted: a causal language model of peft, as `plain_peft.adapted` loads it.
        tokenizer: of transformers.
        chat: whether a prompt is a user's message, put through the tokenizer's chat template; the
            empty prompt is the beginning of a text in any case.

    Raises:
        ConfigurationError: the model or the tokenizer cannot write these.
    """
    with adapted.disable_adapter():
        base = texts(adapted, tokenizer, prompts, sampling, chat=chat)
    adapter = texts(adapted, tokenizer, prompts, sampling, chat=chat)
    return [Sample(*parts) for parts in zip(prompts, base, adapter, strict=True)]


def texts(
    adapted: Any, tokenizer: Any, prompts: Sequence[str], sampling: Sampling, *, chat: bool
) -> list[str]:
    """The continuation of each prompt, without special tokens; arguments as of `samples`.

    Raises:
        ConfigurationError: as `samples`.
    """
    model = adapted.get_base_model()  # whose layers hold the adapter
    ids = {one: prompt_ids.ids(tokenizer, one, chat=chat) for one in dict.fromkeys(prompts)}
    stops = stopping_ids(model, tokenizer)
    written = continuations(model, [ids[one] for one in prompts], sampling, stops=stops)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in written]


def stopping_ids(model: Any, tokenizer: Any) -> set[int]:
    """Ids after which a text is over: the tokenizer's, and those that the model was saved with."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list | tuple) else [named]
    return {int(token) for token in (*several, tokenizer.eos_token_id) if token is not None}
