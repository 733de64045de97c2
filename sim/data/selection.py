"""Which sequences of a user take part: rules over one user's records, blind to everybody else.

A rule is ``(records, k, max_tokens, source) -> at most k sequences`` (Chua et al., arXiv
2406.14322, section 4.2). ``records`` are the user's own, whole; sequences are cut to
``max_tokens``. ``k = 0`` takes all the records. Ties go to the earlier record. A sequence whose
cut leaves nothing to predict is not usable, and never takes the place of one that is. The table is
closed: its names travel in the contract.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from userdp.sim.data import masking


@dataclass(frozen=True, kw_only=True)
class Records:
    """All that a rule may know: the records of one user, in storage order."""

    tokens: Sequence[np.ndarray]  # each (tokens,), signed as in `userdp.sim.data.masking`
    perplexity: np.ndarray | None = None  # (records,) under the public base model, NaN: unusable


Rule = Callable[[Records, int, int, np.random.Generator], list[np.ndarray]]


def random(
    records: Records, k: int, max_tokens: int, source: np.random.Generator
) -> list[np.ndarray]:
    """k records, uniformly without replacement; all, in random order, if there are fewer."""
    return _take(records, source.permutation(len(records.tokens)), k, max_tokens)


def longest(records: Records, k: int, max_tokens: int, _: np.random.Generator) -> list[np.ndarray]:
    """The k records of most tokens, before they are cut."""
    return _take(records, _ascending([-len(record) for record in records.tokens]), k, max_tokens)


def shortest(records: Records, k: int, max_tokens: int, _: np.random.Generator) -> list[np.ndarray]:
    """The k records of fewest tokens."""
    return _take(records, _ascending([len(record) for record in records.tokens]), k, max_tokens)


def high_perplexity(
    records: Records, k: int, max_tokens: int, _: np.random.Generator
) -> list[np.ndarray]:
    """The k records that surprise the public base model most."""
    return _take(records, _ascending(-_perplexity(records)), k, max_tokens)


def low_perplexity(
    records: Records, k: int, max_tokens: int, _: np.random.Generator
) -> list[np.ndarray]:
    """The k records that surprise the public base model least."""
    return _take(records, _ascending(_perplexity(records)), k, max_tokens)


def random_chunk(
    records: Records, k: int, max_tokens: int, source: np.random.Generator
) -> list[np.ndarray]:
    """k windows over the user's joined records, at uniform starts; windows cross record boundaries.

    One window, the whole, if the user has at most ``max_tokens`` tokens. ``k = 0``: as many windows
    as cover the text once, end to end. Windows without a token to predict are left out.
    """
    if not records.tokens:
        return []
    joined = np.concatenate(list(records.tokens))
    last = len(joined) - max_tokens
    if last <= 0:
        starts: Iterable[int] = [0]
    else:
        starts = source.integers(0, last + 1, k) if k else range(0, len(joined), max_tokens)
    return list(_usable(joined[start : start + max_tokens] for start in starts))


RULES: Mapping[str, Rule] = {
    "random": random,
    "longest": longest,
    "shortest": shortest,
    "high_perplexity": high_perplexity,
    "low_perplexity": low_perplexity,
    "random_chunk": random_chunk,
}
DRAWN_ANEW = frozenset({"random", "random_chunk"})  # user-wise draws these in every round
BY_PERPLEXITY = frozenset({"high_perplexity", "low_perplexity"})  # need scores of the records
OF_RECORDS = frozenset({"random", "longest", "shortest"})  # whole ones, whatever is learned of them


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
    """The first k usable records in this order."""
    cut = (records.tokens[i][:max_tokens] for i in order)
    return list(itertools.islice(_usable(cut), k or None))


def _usable(sequences: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    return (sequence for sequence in sequences if masking.predicted(sequence))


def _ascending(keys: Sequence[float] | np.ndarray) -> np.ndarray:
    """Record numbers by key, ties to the earlier; not-a-number comes last."""
    return np.argsort(keys, kind="stable")


def _perplexity(records: Records) -> np.ndarray:
    if records.perplexity is None:
        raise ValueError("Selection by perplexity needs the records' scores, and there are none.")
    return records.perplexity
