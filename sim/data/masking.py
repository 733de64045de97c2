"""Stores the mask of learned tokens in their sign: ``t`` is learned, its complement ``~t`` is not.

A token that is not learned (of a prompt, of another speaker) is an input of the model and never a
target. Because the sign stays with the token through every cut, sort and window, no second array
for the mask is needed.

>>> record = np.array([*given([7, 8]), 9])
>>> tokens(record).tolist(), learned(record).tolist()
([7, 8, 9], [False, True])
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

PADDING = ~0  # after the end of a record: token 0, not learned


def given(ids: Iterable[int]) -> list[int]:
    """The ids as tokens that are not learned."""
    return [~token for token in ids]


def signed(ids: Iterable[int], learned: Iterable[object]) -> list[int]:
    """The ids, those with a true flag as learned tokens."""
    return [token if flag else ~token for token, flag in zip(ids, learned, strict=True)]


def tokens(signed: np.ndarray) -> np.ndarray:
    """The token ids without the mask, in the same shape and dtype."""
    return np.where(signed < 0, ~signed, signed)


def learned(signed: np.ndarray) -> np.ndarray:
    """Which next tokens the loss counts: (..., positions + 1) signed -> (..., positions) bool."""
    return signed[..., 1:] >= 0


def predicted(record: np.ndarray) -> int:
    """Number of tokens of a record (tokens,) that the loss counts; 0: nothing to learn."""
    return int(np.count_nonzero(learned(record)))
