"""Finds a prompt that is the text of a private record: prompts are public, so it is refused.

A prompt counts as private if it is a whole record, however short, or if it has `WORDS` words or
more and stands as it is in a record, at its beginning or later (in a conversation, later is where
a message begins). Fewer words are phrases that anybody writes. This is a guard against a mistake,
not a proof: whoever names a prompt declares it public.

The answer is a function of private records without noise. It is an error of the process that holds
these records anyway, given before the first round, and the run releases nothing after it; it tells
the number of the prompt, and neither a record, a user nor a count. A log of it is as private as the
records, and no claim covers it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.data import masking
from userdp.sim.data.population import Population

WORDS = 5  # a prompt of fewer words is private only as a whole record
_CHUNK = 1 << 22  # tokens that are compared at once


def first_private(prompts: Sequence[str], records: Population, tokenizer: Any) -> int | None:
    """Number, from 1, of the first prompt that is private; None where none is.

    Args:
        records: the training records, tokenised.
        tokenizer: of transformers, which tokenised them.
    """
    encode = TokenizerEncode(tokenizer)
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            continue
        whole = np.asarray(encode([prompt])[0])
        if _is_record(masking.tokens(whole), records) or _is_quoted(prompt, records, tokenizer):
            return number
    return None


def _is_record(ids: np.ndarray, records: Population) -> bool:
    """Whether some record consists of these ids, (tokens,) int."""
    starts = records.record_offsets[:-1][np.diff(records.record_offsets) == len(ids)]
    for place, token in enumerate(ids.tolist()):
        stored = records.tokens[starts + place]
        starts = starts[(stored == token) | (stored == ~token)]
    return len(starts) > 0


def _is_quoted(prompt: str, records: Population, tokenizer: Any) -> bool:
    """Whether a prompt of many words stands in a record."""
    words = list(re.finditer(r"\S+", prompt))
    if len(words) < WORDS:
        return False
    inner = prompt[words[0].end() : words[-2].end()]  # its words are tokenised so in any record
    ids = tokenizer(inner, add_special_tokens=False, split_special_tokens=True)["input_ids"][1:]
    around = 2 * len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + 2
    wanted = prompt.strip()
    for place in _places(np.asarray(ids), records.tokens):
        near = records.tokens[max(0, place - around) : place + len(ids) + around]
        if wanted in tokenizer.decode(masking.tokens(near).tolist()):
            return True
    return False


def _places(ids: np.ndarray, tokens: np.ndarray) -> Iterator[int]:
    """Where the ids (n,) follow one another in the signed tokens (tokens,)."""
    for start in range(0, len(tokens), _CHUNK):
        chunk = masking.tokens(tokens[start : start + _CHUNK + len(ids) - 1])
        places = np.arange(max(0, min(_CHUNK, len(chunk) - len(ids) + 1)))
        for shift, token in enumerate(ids.tolist()):
            places = places[chunk[places + shift] == token]
        yield from (places + start).tolist()
