"""Compares what a model writes after held-out prompts, which are public, with people's answers.

A record's answer is its first run of learned tokens: the text after the prompt, or in a
conversation the first turn that is learned. What stands before it is the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from userdp.clients.evaluation import rouge
from userdp.clients.generation import sampling, side_by_side
from userdp.clients.generation.sampling import Sampling
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import masking
from userdp.sim.data.population import Population


@dataclass(frozen=True)
class Prompted:
    """Token ids of a prompt and of a person's answer, and the answer as text."""

    prompt: list[int]
    answer: list[int]
    text: str  # without special tokens


def chosen(
    heldout: Population, tokenizer: Any, *, seq_len: int, records: int, tokens: int
) -> list[Prompted]:
    """The first records with a prompt and an answer in which ROUGE sees a word, by users.

    Args:
        tokenizer: of transformers.
        seq_len: tokens to which a record is cut, as it is scored.
        records: at most so many.
        tokens: tokens to which an answer is cut.

    Raises:
        ConfigurationError: there is none.
    """
    found = list(islice(_prompted(heldout, tokenizer, seq_len, tokens), records))
    if not found:
        raise ConfigurationError(
            f"rouge.records={records}: within model.seq_len={seq_len} no held-out record has a "
            "prompt, and an answer with a word of Latin letters or digits; raise model.seq_len, or "
            "set rouge.records=0."
        )
    return found


def mean_rouge_l(adapted: Any, tokenizer: Any, records: Sequence[Prompted]) -> float:
    """Mean F1 of ROUGE-L of the likeliest continuations, each as long as the answer at most.

    Args:
        adapted: a causal language model of peft; with its adapter, unless that is disabled.
        tokenizer: of transformers.
        records: at least one.

    Raises:
        ConfigurationError: the model writes no text by transformers' ``generate``.
    """
    model = adapted.get_base_model()  # whose layers hold the adapter
    written = sampling.continuations(
        model,
        [one.prompt for one in records],
        Sampling(tokens=max(len(one.answer) for one in records), temperature=0),
        stops=side_by_side.stopping_ids(model, tokenizer),
    )
    # The likeliest tokens do not depend on how many may follow, so each can be cut to its own end.
    texts = [
        _text(tokenizer, ids[: len(one.answer)]) for ids, one in zip(written, records, strict=True)
    ]
    return rouge.mean_f1([one.text for one in records], texts)


def _prompted(heldout: Population, tokenizer: Any, seq_len: int, tokens: int) -> Iterator[Prompted]:
    for user in range(len(heldout)):
        for record in heldout.records(user):
            prompt, answer = split(record[:seq_len])
            text = _text(tokenizer, answer[:tokens])
            if prompt and rouge.has_words(text):
                yield Prompted(prompt, answer[:tokens], text)


def split(record: np.ndarray) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and the answer of a record; either can be empty.

    Args:
        record: signed tokens (tokens,), as in `userdp.sim.data.masking`.
    """
    ids, learned = masking.tokens(record).tolist(), [*(record >= 0).tolist(), True, False]
    start = learned.index(True)
    return ids[:start], ids[start : learned.index(False, start)]


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text
