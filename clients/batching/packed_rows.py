"""Packs the records of a block end to end into one row, so that no position is padding.

`packing` gives each record a row and pads it to the longest of its stack. Here one row holds all
records of a stack, one behind the other, in the order of their lanes: each lane owns one range of
positions. `userdp.clients.kernels.packed_attention` keeps the records apart.

Where the shapes of stacks are fixed (`userdp.clients.batching.fixed_shapes`), rows are filled up to
one length, and the loss is computed at every position. How records of a unit fall into rows depends
on other units, and with it the order in which the products of its gradient are added up: float32
rounding. The bfloat16 weights of a unit's own adapter would multiply that, so where units have
their own, each record is a lane, and so is what fills the row up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from userdp.clients.batching.packing import Unit
from userdp.sim.data import masking

_Record = tuple[int, np.ndarray]  # the block's lane, and the signed tokens


@dataclass(frozen=True)
class PackedStack:
    """One row of records, for one forward pass.

    ``starts[i]`` to ``starts[i + 1]`` are the positions of the stack's lane ``i``; what fills the
    row up belongs to the last unit, and has weight zero.
    """

    inputs: np.ndarray  # (1, positions) int64 tokens that the model reads
    position_ids: np.ndarray  # (1, positions) int64: from 0 in each record
    lengths: Sequence[int]  # positions of each record, and of the pieces that fill the row up
    predicted: np.ndarray  # (predicted tokens,) int64 positions
    targets: np.ndarray  # (predicted tokens,) int64
    weights: np.ndarray  # (predicted tokens,) float32
    lanes: np.ndarray  # (lanes of the stack,) int64 lanes of the block, in order
    starts: np.ndarray  # (lanes of the stack + 1,) int32
    records: Sequence[_Record]
    record_weights: np.ndarray  # (records,) float32: 1 / records of the record's unit
    fixed: bool  # whether the row is filled up
    one_adapter: bool  # whether the records of a unit are one lane

    def learned_tokens(self) -> np.ndarray:
        """(records,) int64: number of learned tokens of each record, at least one."""
        return np.array([masking.predicted(record) for _, record in self.records])


class _Shape(NamedTuple):
    """What all stacks of a block have in common; the fields are arguments of `stacks`."""

    fixed: bool
    one_adapter: bool


def stacks(
    block: Sequence[Unit], max_tokens: int, *, fixed: bool = False, one_adapter: bool = True
) -> Iterator[PackedStack]:
    """Lay the records of a block, in the order of their lanes, into stacks.

    Args:
        block: units with their records.
        max_tokens: positions of a stack; a longer record is a stack of its own.
        fixed: whether every stack has at least so many positions.
        one_adapter: whether the records of a unit are one lane; otherwise each is one.
    """
    records = [(lane, record) for lane, unit in enumerate(block) for record in unit]
    weights = np.array([1.0 / len(block[lane]) for lane, _ in records], np.float32)
    yield from _laid(records, weights, max_tokens, _Shape(fixed, one_adapter))


def halves(stack: PackedStack) -> list[PackedStack]:
    """Split a stack of at least two records into smaller ones, after memory ran out."""
    middle, size = len(stack.records) // 2, stack.inputs.size // 2
    shape = _Shape(stack.fixed, stack.one_adapter)
    parts = (slice(0, middle), slice(middle, None))
    return [
        half
        for part in parts
        for half in _laid(stack.records[part], stack.record_weights[part], size, shape)
    ]


def _laid(
    records: Sequence[_Record], weights: np.ndarray, max_tokens: int, shape: _Shape
) -> Iterator[PackedStack]:
    """Stacks of some records, in their order; ``weights`` (records,) float32."""
    start, size = 0, 0
    for end, (_, record) in enumerate(records):
        length = len(record) - 1
        if end > start and size + length > max_tokens:
            part = slice(start, end)
            yield _stack(records[part], weights[part], max_tokens, shape)
            start, size = end, 0
        size += length
    if start < len(records):
        yield _stack(records[start:], weights[start:], max_tokens, shape)


def _stack(
    records: Sequence[_Record], weights: np.ndarray, max_tokens: int, shape: _Shape
) -> PackedStack:
    """The stack of some records, filled up to ``max_tokens`` positions where shapes are fixed."""
    lengths = _filled([len(record) - 1 for _, record in records], max_tokens * shape.fixed)
    bounds = np.cumsum([0, *lengths])
    inputs, following = np.zeros(bounds[-1], np.int64), np.full(bounds[-1], masking.PADDING)
    token_weights = np.zeros(bounds[-1], np.float32)
    for (_, record), weight, start in zip(records, weights, bounds, strict=False):
        part = slice(start, start + len(record) - 1)
        inputs[part], following[part] = masking.tokens(record[:-1]), record[1:]
        token_weights[part] = weight / masking.predicted(record)
    learned = following >= 0
    predicted = np.arange(len(inputs)) if shape.fixed else np.flatnonzero(learned)
    lanes, first = _lanes(records, len(lengths), shape.one_adapter)
    return PackedStack(
        inputs=inputs[None],
        position_ids=np.concatenate([np.arange(length) for length in lengths])[None],
        lengths=lengths,
        predicted=predicted,
        targets=masking.tokens(following)[predicted],
        weights=(token_weights * learned)[predicted],
        lanes=lanes,
        starts=np.append(bounds[first], bounds[-1]).astype(np.int32),
        records=records,
        record_weights=weights,
        fixed=shape.fixed,
        one_adapter=shape.one_adapter,
    )


def _filled(lengths: list[int], least: int) -> list[int]:
    """Lengths of records, and of pieces behind them up to ``least`` positions in all."""
    longest = max(lengths)  # the model may read no more
    while (filling := least - sum(lengths)) > 0:
        lengths.append(min(filling, longest))
    return lengths


def _lanes(
    records: Sequence[_Record], pieces: int, one_adapter: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The block's lane of each lane of a stack, and the number of its first piece.

    Args:
        pieces: records, and what fills the row up behind them.
    """
    owners = np.array([lane for lane, _ in records])
    if one_adapter:
        lanes, first = np.unique(owners, return_index=True)
        return lanes, first
    owners = np.append(owners, owners[-1:].repeat(pieces > len(records)))
    return owners, np.arange(len(owners))
