"""One signed integer for a token and whether it is learned: ``t``, or else its complement ``~t``.

A token that is not learned (of a prompt, of another speaker) is read by the model but never
predicted. The sign goes with the token through every cut, sort and window, so no array runs beside
the tokens.

>>> record = np.array([*given([7, 8]), 9])
>>> tokens(record).tolist(), learned(record).tolist()
([7, 8, 9], [False, True])
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

PADDING = ~0  # behind the end of a record: token 0, not learned


def given(ids: Iterable[int]) -> list[int]:
    """The ids, none of them learned."""
    return [~token for token in ids]


def signed(ids: Iterable[int], learned: Iterable[object]) -> list[int]:
    """The ids, of which those are learned whose flag is true."""
    return [token if flag else ~token for token, flag in zip(ids, learned, strict=True)]


def tokens(signed: np.ndarray) -> np.ndarray:
    """The ids themselves, in the same shape and dtype."""
    return np.where(signed < 0, ~signed, signed)


def learned(signed: np.ndarray) -> np.ndarray:
    """(..., positions) bool for (..., positions + 1): which next tokens the loss counts."""
    return signed[..., 1:] >= 0


def predicted(record: np.ndarray) -> int:
    """How many tokens of a record (tokens,) the loss counts; 0: there is nothing to learn."""
    return int(np.count_nonzero(learned(record)))
