"""How the ragged records of many units become few rectangular stacks with little padding.

Units (what one lane bounds: a user, or a record slot) are grouped into *blocks* whose gradients fit
in memory together; the records of a block are sorted by length and cut into *stacks*, one forward
and backward each. A unit's records may fall into several stacks of its block, so no unit is too
large. Knows no model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from userdp.sim.data import masking

# The token sequences of one privacy unit, signed as in `userdp.sim.data.masking`, each with some to predict.
Unit = list[np.ndarray]

_SORTED_TOGETHER = 16  # blocks whose units are sorted by length together


@dataclass(frozen=True)
class Stack:
    """Rows of one forward pass, grouped by lane, the same number of rows for each lane."""

    tokens: np.ndarray  # (rows, positions + 1) int64, zeros behind the end of a row
    lengths: np.ndarray  # (rows,) int64: tokens of the row
    learned: np.ndarray  # (rows, positions) bool: where the next token is one the loss counts
    lanes: np.ndarray  # (lanes,) int64: which lane of the block each lane of the stack belongs to
    row_weights: np.ndarray  # (rows,) float32: 1 / records of the row's unit
    records: Sequence[tuple[int, np.ndarray]]  # lane of the block and record of each row

    def positions(self) -> np.ndarray:
        """(predicted tokens,) int64 into flattened (rows, positions)."""
        return np.flatnonzero(self.learned)

    def predicted(self) -> np.ndarray:
        """(rows,) int64: predicted tokens of each row, at least one."""
        return self.learned.sum(1)

    def token_weights(self) -> np.ndarray:
        """(predicted tokens,) float32: mean over a row's tokens, times the row's weight."""
        predicted = self.predicted()
        return np.repeat(self.row_weights / predicted, predicted).astype(np.float32)


def known(record: np.ndarray, vocabulary: int) -> bool:
    """Whether the model has all tokens of a record, given and learned."""
    return int(masking.tokens(record).max()) < vocabulary


def blocks(units: Iterable[Unit], max_lanes: int) -> Iterator[list[Unit]]:
    """Groups of at most ``max_lanes`` units of similar length; empty units are left out.

    Units are taken some blocks at a time, so that no more of a cohort is held.
    """
    filled = (unit for unit in units if unit)
    while taken := list(itertools.islice(filled, _SORTED_TOGETHER * max_lanes)):
        taken.sort(key=lambda unit: -max(map(len, unit)))
        for start in range(0, len(taken), max_lanes):
            yield taken[start : start + max_lanes]


def stacks(block: Sequence[Unit], max_tokens: int) -> Iterator[Stack]:
    """Cut the rows of a block, longest first, into stacks of at most ``max_tokens`` positions.

    A single row longer than ``max_tokens`` makes a stack of its own: nothing is ever dropped.
    """
    rows = [(lane, record) for lane, unit in enumerate(block) for record in unit]
    rows.sort(key=lambda row: -len(row[1]))  # stable: rows of one lane stay together
    weights = np.array([1.0 / len(unit) for unit in block], np.float32)
    start = 0
    while start < len(rows):
        count = max(1, max_tokens // (len(rows[start][1]) - 1))
        yield _stack(rows[start : start + count], weights)
        start += count


def _stack(rows: list[tuple[int, np.ndarray]], weights: np.ndarray) -> Stack:
    rows = sorted(rows, key=lambda row: row[0])
    owners = np.array([lane for lane, _ in rows])
    lengths = np.array([len(record) for _, record in rows])
    signed = np.full((len(rows), lengths.max()), masking.PADDING, np.int64)
    for row, (_, record) in zip(signed, rows, strict=True):
        row[: len(record)] = record
    lanes, counts = np.unique(owners, return_counts=True)
    even = (counts == counts[0]).all()  # else one lane per row; the block adds them up
    return Stack(
        tokens=masking.tokens(signed),
        lengths=lengths,
        learned=masking.learned(signed),
        lanes=lanes if even else owners,
        row_weights=weights[owners],
        records=rows,
    )


def halves(stack: Stack) -> list[Stack]:
    """The rows of a stack of several in two stacks: what is left to do where memory ran out."""
    weights = np.zeros(1 + max(lane for lane, _ in stack.records), np.float32)
    weights[[lane for lane, _ in stack.records]] = stack.row_weights
    middle = len(stack.records) // 2
    return [
        _stack(list(part), weights) for part in (stack.records[:middle], stack.records[middle:])
    ]
