"""Packs the records of a block end to end into rows, so that hardly a position is padding.

`packing` gives each record a row and pads it to the longest of its stack. Here a row holds several
records, one behind the other. Their positions start at 0 each, by which transformers' masks keep a
position from seeing another record. Records lie in the order of their lanes, so that each lane owns
one range of the flattened positions; padding at the end of a row belongs to the lane before it, and
has no part in the loss.

Positions that a mask hides still take part in a product, with weight zero: where a record makes an
activation inf or NaN, its row-mates get NaN. `userdp.clients.training.cohort_update` computes such
a stack again, `unpacked`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from userdp.clients.batching import packing
from userdp.clients.batching.packing import Stack, Unit
from userdp.sim.data import masking

_Record = tuple[int, np.ndarray]  # the block's lane, and the signed tokens
# Records of the greatest length that a row holds. Attention computes all pairs of positions of a
# row, so it should be short; its end is padding, so it should be long.
_LONGEST_IN_A_ROW = 2


@dataclass(frozen=True)
class PackedStack:
    """Rows of one forward pass that hold several records each.

    ``starts[i]`` to ``starts[i + 1]`` are the flattened positions of the stack's lane ``i``.
    """

    inputs: np.ndarray  # (rows, width) int64 tokens that the model reads, zeros as padding
    inside: np.ndarray  # (rows, width) bool: True where the position is no padding
    position_ids: np.ndarray  # (rows, width) int64: from 0 in each record; 0 at padding
    predicted: np.ndarray  # (predicted tokens,) int64 into flattened (rows, width)
    targets: np.ndarray  # (predicted tokens,) int64
    weights: np.ndarray  # (predicted tokens,) float32
    lanes: np.ndarray  # (lanes of the stack,) int64 lanes of the block
    starts: np.ndarray  # (lanes of the stack + 1,) int32
    records: Sequence[_Record]
    record_weights: np.ndarray  # (records,) float32: 1 / records of the record's unit


def stacks(block: Sequence[Unit], max_tokens: int) -> Iterator[PackedStack]:
    """Lay the records of a block, in the order of their lanes, into stacks.

    Args:
        block: units with their records.
        max_tokens: positions of a stack, with padding; a longer record is a stack of its own.
    """
    records = [(lane, record) for lane, unit in enumerate(block) for record in unit]
    weights = np.array([1.0 / len(block[lane]) for lane, _ in records], np.float32)
    yield from _laid(records, weights, max_tokens)


def halves(stack: PackedStack) -> list[PackedStack]:
    """Split a stack of at least two records into smaller ones, after memory ran out."""
    middle, size = len(stack.records) // 2, stack.inputs.size // 2
    parts = (slice(0, middle), slice(middle, None))
    return [
        half
        for part in parts
        for half in _laid(stack.records[part], stack.record_weights[part], size)
    ]


def unpacked(stack: PackedStack) -> Stack:
    """The same records with a row for each."""
    lanes = np.array([lane for lane, _ in stack.records])
    weights = np.zeros(1 + int(lanes.max()), np.float32)
    weights[lanes] = stack.record_weights
    return packing.padded_stack(list(stack.records), weights)


def _laid(
    records: Sequence[_Record], weights: np.ndarray, max_tokens: int
) -> Iterator[PackedStack]:
    """Stacks of some records, in their order; ``weights`` (records,) float32."""
    lengths = np.array([len(record) - 1 for _, record in records])
    longest = int(lengths.max())
    width = max(longest, min(_LONGEST_IN_A_ROW * longest, int(lengths.sum()), max_tokens))
    size = width * max(1, max_tokens // width)  # positions of a stack
    offsets = _offsets(lengths, width)
    bounds = np.flatnonzero(np.diff(offsets // size, prepend=-1, append=-1))
    for start, end in itertools.pairwise(bounds.tolist()):
        part = slice(start, end)
        yield _stack(records[part], weights[part], offsets[part] % size, width)


def _offsets(lengths: np.ndarray, width: int) -> np.ndarray:
    """(records,) int64: where each record begins; it goes to the next row where one ends."""
    offsets, end = np.empty(len(lengths), np.int64), 0
    for number, length in enumerate(lengths.tolist()):
        if end % width + length > width:
            end += width - end % width
        offsets[number] = end
        end += length
    return offsets


def _stack(
    records: Sequence[_Record], weights: np.ndarray, offsets: np.ndarray, width: int
) -> PackedStack:
    """The stack of records that begin at these offsets of the flattened positions."""
    lengths = np.array([len(record) - 1 for _, record in records])
    rows = int(offsets[-1] + lengths[-1] - 1) // width + 1
    inputs, position_ids = (np.zeros(rows * width, np.int64) for _ in range(2))
    inside = np.zeros(rows * width, bool)
    signed = np.full(rows * width, masking.PADDING, np.int64)  # what follows each position
    for (_, record), offset, length in zip(records, offsets, lengths, strict=True):
        inputs[offset : offset + length] = masking.tokens(record[:-1])
        inside[offset : offset + length] = True
        position_ids[offset : offset + length] = np.arange(length)
        signed[offset : offset + length] = record[1:]
    learned = signed >= 0
    lanes, first = np.unique([lane for lane, _ in records], return_index=True)
    return PackedStack(
        inputs=inputs.reshape(rows, width),
        inside=inside.reshape(rows, width),
        position_ids=position_ids.reshape(rows, width),
        predicted=np.flatnonzero(learned),
        targets=masking.tokens(signed)[learned],
        weights=_token_weights(learned, offsets, lengths, weights),
        lanes=lanes,
        starts=np.append(offsets[first], rows * width).astype(np.int32),
        records=records,
        record_weights=weights,
    )


def _token_weights(
    learned: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(predicted tokens,) float32: the record's weight / its number of learned tokens."""
    counts = np.array(
        [learned[o : o + n].sum() for o, n in zip(offsets, lengths, strict=True)], np.int64
    )
    return np.repeat((weights / counts).astype(np.float32), counts)
