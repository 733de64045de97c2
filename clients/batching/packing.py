"""Packs the ragged records of many privacy units into few rectangular stacks with little padding.

- A *unit* is what one clip bounds: a user, or one of a user's record slots. In memory it has a
  *lane*, which holds its adapter and its gradient.
- A *block* is a group of units whose gradients fit into memory together.
- A *stack* is the input of one forward and backward pass. The records of a block are sorted by
  length and cut into stacks; a unit's records may fall into several stacks of its block, so a unit
  may be larger than a stack.

This module does not depend on any model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from userdp.clients.batching.fixed_shapes import FixedShapes
from userdp.sim.data import masking

# The token sequences (tokens,) of one privacy unit, signed as in `userdp.sim.data.masking`; each
# has at least one token to predict.
Unit = list[np.ndarray]

_BLOCKS_PER_SORT = 16  # units are sorted by length among this many blocks


@dataclass(frozen=True)
class Stack:
    """Rows of one forward pass, grouped by lane, with the same number of rows for every lane."""

    tokens: np.ndarray  # (rows, positions + 1) int64, zeros behind the end of a row
    lengths: np.ndarray  # (rows,) int64: tokens of the row
    learned: np.ndarray  # (rows, positions) bool: True where the loss counts the next token
    lanes: np.ndarray  # (lanes of the stack,) int64: the block's lane of each lane of the stack
    row_weights: np.ndarray  # (rows,) float32: 1 / records of the row's unit; 0 for a filling row
    records: Sequence[tuple[int, np.ndarray]]  # the block's lane and the record (tokens,) per row
    every_position: bool = False  # predict at all positions, with weight 0 where nothing is learned

    def positions(self) -> np.ndarray:
        """(predicted tokens,) int64 into flattened (rows, positions)."""
        return np.arange(self.learned.size) if self.every_position else np.flatnonzero(self.learned)

    def learned_tokens(self) -> np.ndarray:
        """(rows,) int64: number of learned tokens of each row, at least one."""
        counts: np.ndarray = self.learned.sum(1)
        return counts

    def token_weights(self) -> np.ndarray:
        """(predicted tokens,) float32: 1 / learned tokens of the row, times the row's weight."""
        predicted = self.learned_tokens()
        weights = (self.row_weights / predicted).astype(np.float32)
        if self.every_position:
            dense: np.ndarray = (self.learned * weights[:, None]).ravel()
            return dense
        return np.repeat(weights, predicted)


def in_vocabulary(record: np.ndarray, vocabulary: int) -> bool:
    """Whether all ids of a record (tokens,), learned or not, are below ``vocabulary``."""
    return int(masking.tokens(record).max()) < vocabulary


def blocks(units: Iterable[Unit], max_lanes: int, parts: int = 1) -> Iterator[list[Unit]]:
    """Groups of at most ``max_lanes`` units of similar length; empty units are left out.

    Units are read as they are needed, 16 blocks at a time, so that a cohort is never held whole.

    Args:
        parts: blocks are small enough for about so many of the units that are read at a time.
    """
    nonempty = (unit for unit in units if unit)
    while group := list(itertools.islice(nonempty, _BLOCKS_PER_SORT * max_lanes)):
        group.sort(key=lambda unit: -max(map(len, unit)))
        size = min(max_lanes, -(-len(group) // parts))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def stacks(
    block: Sequence[Unit], max_tokens: int, shapes: FixedShapes | None = None
) -> Iterator[Stack]:
    """Cut the rows of a block, longest first, into stacks of at most ``max_tokens`` positions.

    A single row longer than ``max_tokens`` becomes a stack of its own: no record is dropped.

    Args:
        block: units with their records.
        max_tokens: positions of a stack, with padding.
        shapes: of all stacks; None pads the rows of a stack to its longest.
    """
    rows = [(lane, record) for lane, unit in enumerate(block) for record in unit]
    rows.sort(key=lambda row: -len(row[1]))  # stable: rows of one lane stay together
    weights = np.array([1.0 / len(unit) for unit in block], np.float32)
    start = 0
    while start < len(rows):
        longest = len(rows[start][1])
        if shapes is None:
            part = rows[start : start + max(1, max_tokens // (longest - 1))]
            yield _stack(part, weights)
        else:
            width = shapes.width(longest)
            part = rows[start : start + shapes.rows(width, max_tokens)]
            part = [row for row in part if shapes.width(len(row[1])) == width]
            yield _fixed_stack(part, weights, shapes.rows(width, max_tokens), shapes)
        start += len(part)


def _fixed_stack(
    rows: list[tuple[int, np.ndarray]], weights: np.ndarray, count: int, shapes: FixedShapes
) -> Stack:
    """The stack of some rows (lane, record) and of copies of the first, ``count`` rows in all."""
    filled = rows + rows[:1] * (count - len(rows))
    lanes = np.array([lane for lane, _ in filled])
    lengths = np.array([len(record) for _, record in filled])
    signed = _padded(filled, shapes.width(int(lengths.max())))
    row_weights = weights[lanes]
    row_weights[len(rows) :] = 0
    return Stack(
        tokens=masking.tokens(signed),
        lengths=lengths,
        learned=masking.learned(signed),
        lanes=lanes,  # one lane per row: a unit's rows may be in several stacks, or in one
        row_weights=row_weights,
        records=rows,
        every_position=shapes.every_position,
    )


def _padded(rows: Sequence[tuple[int, np.ndarray]], width: int) -> np.ndarray:
    """(rows, width) int64 of the records of rows (lane, record), signed as in `masking`."""
    signed = np.full((len(rows), width), masking.PADDING, np.int64)
    for row, (_, record) in zip(signed, rows, strict=True):
        row[: len(record)] = record
    return signed


def _stack(rows: list[tuple[int, np.ndarray]], weights: np.ndarray) -> Stack:
    """The stack of some rows (lane, record); ``weights (lanes of the block,)`` float32."""
    rows = sorted(rows, key=lambda row: row[0])
    owners = np.array([lane for lane, _ in rows])
    lengths = np.array([len(record) for _, record in rows])
    signed = _padded(rows, int(lengths.max()))
    lanes, counts = np.unique(owners, return_counts=True)
    even = (counts == counts[0]).all()
    return Stack(
        tokens=masking.tokens(signed),
        lengths=lengths,
        learned=masking.learned(signed),
        # Lanes of unequal row counts are split into one lane per row; the block adds these up.
        lanes=lanes if even else owners,
        row_weights=weights[owners],
        records=rows,
    )


def halves(stack: Stack, shapes: FixedShapes | None = None) -> list[Stack]:
    """Split a stack of at least two rows into smaller ones, for a retry after memory ran out.

    Args:
        stack: from `stacks`.
        shapes: with which it was made.
    """
    weights = np.zeros(1 + max(lane for lane, _ in stack.records), np.float32)
    weights[[lane for lane, _ in stack.records]] = stack.row_weights[: len(stack.records)]
    if shapes is not None:
        rows, count = list(stack.records), len(stack.lengths) // 2
        parts = [rows[start : start + count] for start in range(0, len(rows), count)]
        return [_fixed_stack(part, weights, count, shapes) for part in parts]
    middle = len(stack.records) // 2
    return [
        _stack(list(part), weights) for part in (stack.records[:middle], stack.records[middle:])
    ]
