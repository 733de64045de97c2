"""Counts the bytes of text that the predicted tokens of records stand for.

A loss in nats a token depends on how a tokenizer cuts a text; in bits a byte it can be compared
between models with other tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from userdp.sim.data import masking


def predicted(tokenizer: Any, records: Iterable[np.ndarray]) -> int:
    """Bytes of UTF-8 of the predicted tokens of all records.

    A record's first token and those that are not learned are read and not predicted. Special
    tokens stand for no text. A character of which a cut leaves a part counts three bytes.

    Args:
        tokenizer: of transformers.
        records: signed tokens (tokens,) each, cut as they are scored.
    """
    # What a token stands for may depend on those before it, so each run of predicted tokens is
    # measured as what it adds to the record so far.
    prefixes = [prefix for record in records for prefix in _bounds(record)]
    texts = tokenizer.batch_decode(
        [prefix.tolist() for prefix in prefixes],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    sizes = [len(text.encode(errors="replace")) for text in texts]
    return sum(sizes[1::2]) - sum(sizes[::2])


def _bounds(record: np.ndarray) -> Iterator[np.ndarray]:
    """For each run of predicted tokens: the tokens before it, and those up to its end."""
    tokens, learned = masking.tokens(record), masking.learned(record)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], learned, [False]]).astype(int)))
    for edge in edges.tolist():  # a start, then an end, in turns
        yield tokens[: edge + 1]
