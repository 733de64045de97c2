"""Which sequences of a user take part: rules over one user's records, blind to everybody else.

A rule is ``(records, k, max_tokens, source) -> at most k sequences`` (Chua et al., arXiv
2406.14322, section 4.2). ``records`` are the user's own token arrays, whole; sequences are cut to
``max_tokens``. ``k = 0`` takes all the records. Ties go to the earlier record. The table is closed:
its names travel in the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Records = Sequence[np.ndarray]
Rule = Callable[[Records, int, int, np.random.Generator], list[np.ndarray]]


def random(
    records: Records, k: int, max_tokens: int, source: np.random.Generator
) -> list[np.ndarray]:
    """k records, uniformly without replacement; all, in random order, if there are fewer."""
    return _take(records, source.permutation(len(records)), k, max_tokens)


def longest(records: Records, k: int, max_tokens: int, _: np.random.Generator) -> list[np.ndarray]:
    """The k records of most tokens, before they are cut."""
    return _take(
        records, np.argsort([-len(record) for record in records], kind="stable"), k, max_tokens
    )


def shortest(records: Records, k: int, max_tokens: int, _: np.random.Generator) -> list[np.ndarray]:
    """The k records of fewest tokens."""
    return _take(
        records, np.argsort([len(record) for record in records], kind="stable"), k, max_tokens
    )


def random_chunk(
    records: Records, k: int, max_tokens: int, source: np.random.Generator
) -> list[np.ndarray]:
    """k windows over the user's joined records, at uniform starts; windows cross record boundaries.

    One window, the whole, if the user has at most ``max_tokens`` tokens. ``k = 0``: as many windows
    as cover the text once, end to end.
    """
    if not records:
        return []
    joined = np.concatenate(list(records))
    last = len(joined) - max_tokens
    if last <= 0:
        return [joined]
    if k == 0:
        return [joined[start : start + max_tokens] for start in range(0, len(joined), max_tokens)]
    return [joined[start : start + max_tokens] for start in source.integers(0, last + 1, k)]


RULES: Mapping[str, Rule] = {
    "random": random,
    "longest": longest,
    "shortest": shortest,
    "random_chunk": random_chunk,
}
DRAWN_ANEW = frozenset({"random", "random_chunk"})  # user-wise draws these in every round


def fill_slots(
    chosen: list[np.ndarray], k: int, *, resample: bool, source: np.random.Generator
) -> list[np.ndarray | None]:
    """Exactly k record slots of one user (Algorithm 1).

    Missing ones are filled by drawing the user's own again, or left empty.
    """
    missing = k - len(chosen)
    if not chosen or not resample:
        return [*chosen, *[None] * missing]
    return [*chosen, *(chosen[i] for i in source.integers(0, len(chosen), missing))]


def _take(records: Records, order: np.ndarray, k: int, max_tokens: int) -> list[np.ndarray]:
    return [records[i][:max_tokens] for i in (order[:k] if k else order)]
