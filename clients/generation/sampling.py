"""Samples continuations of token ids through transformers' own ``generate``, with its cache.

Prompts of equal length share a batch, so no row is padded at its front: models without an attention
mask (state-space models) read each prompt as if alone. The random numbers come from a seed inside a
fork of torch's generators, whose state is as before when a call returns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from userdp.clients.models import language_model
from userdp.sim.common.errors import ConfigurationError

ROWS = 32  # continuations of one batch


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How next tokens are drawn.

    Attributes:
        tokens: new tokens of a continuation, at most.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: share of the probability that the likeliest tokens must reach to be drawn from, the
            others are left out (nucleus sampling, Holtzman et al., arXiv 1904.09751); 1 keeps all.
        seed: of the draws.
    """

    tokens: int = 48
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0


def continuations(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stops: Collection[int],
    rows: int = ROWS,
) -> list[list[int]]:
    """New token ids after each prompt, in the order of the prompts.

    They are a function of model, prompts, sampling and ``rows``; the model's own generation
    configuration (its penalties and cuts) does not count.

    Args:
        model: a causal language model of transformers.
        prompts: token ids, at least one each.
        stops: ids that end a text; they are not returned.
        rows: continuations of one batch.

    Raises:
        ConfigurationError: a prompt leaves no room in the model's context, or the model is of a
            kind that writes no text.
    """
    limit = language_model.longest_text(model)
    check_lengths(prompts, limit)
    if not hasattr(model, "generate") or not model.can_generate():
        raise ConfigurationError(
            f"generate: this model ({model.config.model_type}) writes no text by transformers' "
            "generate; choose another base model."
        )
    found: dict[int, list[int]] = {}
    with torch.random.fork_rng(), _no_configuration(model):
        torch.manual_seed(sampling.seed)
        for numbers in _batches(prompts, rows):
            batch = [list(prompts[number]) for number in numbers]
            for number, ids in zip(numbers, _batch(model, batch, sampling, stops), strict=True):
                found[number] = ids
    return [found[number] for number in range(len(prompts))]


def check_lengths(prompts: Sequence[Sequence[int]], limit: int | None) -> None:
    """Refuse prompts after which the model has no position left.

    Args:
        prompts: token ids.
        limit: tokens of the longest text that the model reads; None: it states none.

    Raises:
        ConfigurationError: names the first one by its number and length.
    """
    for number, prompt in enumerate(prompts, 1):
        if limit is not None and len(prompt) >= limit:
            raise ConfigurationError(
                f"prompt {number}: it has {len(prompt)} tokens and the model reads {limit}, so "
                "that none can follow; shorten it."
            )


def _batches(prompts: Sequence[Sequence[int]], rows: int) -> Iterator[list[int]]:
    """Numbers of prompts of one length, at most ``rows`` of them, by length and place."""
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(number)
    for length in sorted(by_length):
        numbers = by_length[length]
        for start in range(0, len(numbers), rows):
            yield numbers[start : start + rows]


@contextlib.contextmanager
def _no_configuration(model: Any) -> Iterator[None]:
    """Within this block the model has no generation configuration of its own."""
    kept = model.generation_config
    model.generation_config = transformers.GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = kept


def _batch(
    model: Any, prompts: list[list[int]], sampling: Sampling, stops: Collection[int]
) -> list[list[int]]:
    """Continuations of prompts of one length."""
    length, limit = len(prompts[0]), language_model.longest_text(model)
    room = sampling.tokens if limit is None else min(sampling.tokens, limit - length)
    ids = torch.tensor(prompts, device=next(model.parameters()).device)
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=_configuration(sampling, room, stops),
    )
    return [_until(row[length:], stops) for row in written.tolist()]


def _configuration(sampling: Sampling, room: int, stops: Collection[int]) -> Any:
    """Every value that would otherwise be transformers' default is given here."""
    drawn = sampling.temperature > 0
    options: dict[str, Any] = (
        {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if drawn else {}
    )
    return transformers.GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=drawn,
        num_beams=1,
        max_new_tokens=room,
        use_cache=True,
        eos_token_id=sorted(stops) or None,
        pad_token_id=min(stops, default=0),
        **options,
    )


def _until(ids: list[int], stops: Collection[int]) -> list[int]:
    """The ids before the first that ends a text."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]
