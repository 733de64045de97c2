"""Rules that select at most k token sequences of a user from that user's records alone.

The rules of Chua et al., arXiv 2406.14322, section 4.2. Each is an entry of the table ``RULES``: a
function ``(records, k, max_tokens, generator) -> sequences`` and the properties that the rest of a
run has to know of it. ``records`` are the records of one user, whole; the function returns at most
k sequences of at most ``max_tokens`` tokens, or as many as there are for ``k = 0``. Ties go to the
earlier record. A sequence whose cut leaves no token to predict is left out and never takes the
place of a usable one.

A rule of another package is named by its dotted name, ``selection.rule=my_package.rules.LAST``:

    def last(records, k, max_tokens, generator):
        usable = [record[:max_tokens] for record in reversed(records.tokens)]
        usable = [sequence for sequence in usable if masking.predicted(sequence)]
        return usable[:k] if k else usable

    LAST = SelectionRule(select=last)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from userdp.sim.common.table import Table
from userdp.sim.data import masking


@dataclass(frozen=True, kw_only=True)
class Records:
    """The records of one user, in storage order: all the input of a rule."""

    tokens: Sequence[np.ndarray]  # each (tokens,), signed as in `userdp.sim.data.masking`
    perplexity: np.ndarray | None = None  # (records,) under the public base model, NaN: unusable


Rule = Callable[[Records, int, int, np.random.Generator], list[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    """A selection rule and its properties."""

    select: Rule
    drawn_anew: bool = False  # random: under user-wise privacy it selects again in every round
    needs_perplexity: bool = False  # sorts by `Records.perplexity`, under the public base model
    whole_records: bool = True  # a sequence is a record from its beginning, cut to max_tokens
    crosses_records: bool = False  # a sequence may hold tokens of several records

    @property
    def fits_labels(self) -> bool:
        """Whether it can select labelled records: whole, and without a score of next tokens."""
        return self.whole_records and not self.needs_perplexity


def random(
    records: Records, k: int, max_tokens: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """k records (tokens,), uniformly without replacement; all, in random order, if fewer."""
    return _take(records, generator.permutation(len(records.tokens)), k, max_tokens)


def longest(records: Records, k: int, max_tokens: int, _: np.random.Generator) -> list[np.ndarray]:
    """The k records (tokens,) of most tokens, before they are cut."""
    return _take(records, _ascending([-len(record) for record in records.tokens]), k, max_tokens)


def shortest(records: Records, k: int, max_tokens: int, _: np.random.Generator) -> list[np.ndarray]:
    """The k records (tokens,) of fewest tokens."""
    return _take(records, _ascending([len(record) for record in records.tokens]), k, max_tokens)


def high_perplexity(
    records: Records, k: int, max_tokens: int, _: np.random.Generator
) -> list[np.ndarray]:
    """The k records (tokens,) of highest perplexity under the public base model."""
    return _take(records, _ascending(-_perplexity(records)), k, max_tokens)


def low_perplexity(
    records: Records, k: int, max_tokens: int, _: np.random.Generator
) -> list[np.ndarray]:
    """The k records (tokens,) of lowest perplexity under the public base model."""
    return _take(records, _ascending(_perplexity(records)), k, max_tokens)


def random_chunk(
    records: Records, k: int, max_tokens: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """k windows (tokens,) of the user's concatenated records, at uniform starts, across boundaries.

    A single window if the user has at most ``max_tokens`` tokens. For ``k = 0``, consecutive
    windows that cover the text once. Windows without a token to predict are left out.
    """
    if not records.tokens:
        return []
    joined = np.concatenate(list(records.tokens))
    last = len(joined) - max_tokens
    if last <= 0:
        starts: Iterable[int] = [0]
    else:
        starts = generator.integers(0, last + 1, k) if k else range(0, len(joined), max_tokens)
    return list(_usable(joined[start : start + max_tokens] for start in starts))


RULES: Table[SelectionRule] = Table(
    "selection.rule",
    {
        "random": SelectionRule(select=random, drawn_anew=True),
        "longest": SelectionRule(select=longest),
        "shortest": SelectionRule(select=shortest),
        "high_perplexity": SelectionRule(select=high_perplexity, needs_perplexity=True),
        "low_perplexity": SelectionRule(select=low_perplexity, needs_perplexity=True),
        "random_chunk": SelectionRule(
            select=random_chunk, drawn_anew=True, whole_records=False, crosses_records=True
        ),
    },
    kinds=[SelectionRule],
)


def fill_slots(
    chosen: list[np.ndarray], k: int, *, resample: bool, source: np.random.Generator
) -> list[np.ndarray | None]:
    """The k record slots of one user (Algorithm 1): its sequences, then fillings for the rest.

    Args:
        chosen: at most k sequences, each (tokens,).
        resample: fill the other slots with draws from ``chosen``; else they are None.
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
