"""The products of ragged rows by lane in Triton: a program per piece of a lane and output block.

A piece is at most `_PIECE` rows, so no program has much more to do than another. The first piece of
a lane is written to its place; sums of further ones go to a buffer, and a second kernel adds them
in the order of the rows. How a lane is cut follows from its own length, and nothing is added by
atomic operations: a lane's product is the same in every call, whatever stands beside it.

Which pieces there are is known to the device alone. Beyond the first ones they are at most
rows / `_PIECE`, and with fewer rows there are none: lanes are then computed by one kernel.

Only constants are annotated: Triton compiles the annotations too, and knows no type of Python's.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 32  # of a lane that a program takes at a time
_PIECE = 1024  # rows of a lane that one program adds up, at most
_WIDE, _NARROW = 128, 64  # largest output block: of the wide side, and of the narrow one
_LEAST = 16  # a block of a matrix product has at least so many rows and columns


def _block_of_a_piece(  # type: ignore[no-untyped-def]
    left,
    right,
    starts,
    owners,
    further,
    out,
    partial,
    lanes,
    p,
    q,
    left_row,
    left_column,
    right_row,
    right_column,
    out_lane,
    out_row,
    out_column,
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
) -> None:
    """A (P, Q) block of a piece's product: left (n, p), right (n, q), out (lanes, p, q).

    Programs below ``lanes`` compute first pieces, the others further ones, whose lanes and ends by
    lane are owners (further pieces,) and further (lanes + 1,), and whose sums are partial (further
    pieces, p, q). Places beyond the piece or the matrix are read as zero, from an address inside:
    a masked read may still form its address.
    """
    number = tl.program_id(0)
    i = tl.program_id(1) * P + tl.arange(0, P)
    j = tl.program_id(2) * Q + tl.arange(0, Q)
    in_p, in_q = i < p, j < q
    from_i = tl.where(in_p, i, 0).to(tl.int64) * left_column
    from_j = tl.where(in_q, j, 0).to(tl.int64) * right_column
    is_first = number < lanes
    beyond = tl.maximum(number - lanes, 0)  # among the further pieces
    lane = tl.where(is_first, number, tl.load(owners + beyond, mask=number >= lanes, other=0))
    piece = tl.where(is_first, 0, beyond - tl.load(further + lane) + 1)
    first = tl.load(starts + lane) + piece * PIECE
    last = tl.minimum(first + PIECE, tl.load(starts + lane + 1))
    total = tl.zeros((P, Q), dtype=tl.float32)
    for row in range(first, last, ROWS):
        rows = row + tl.arange(0, ROWS)
        inside = rows < last
        rows = tl.where(inside, rows, first).to(tl.int64)
        a = tl.load(
            left + from_i[:, None] + rows[None, :] * left_row,
            mask=in_p[:, None] & inside[None, :],
            other=0.0,
        )
        b = tl.load(
            right + rows[:, None] * right_row + from_j[None, :],
            mask=inside[:, None] & in_q[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision="ieee")
    wide_i, wide_j = i.to(tl.int64)[:, None], j.to(tl.int64)[None, :]
    written = in_p[:, None] & in_q[None, :]
    if is_first:
        place = lane.to(tl.int64) * out_lane + wide_i * out_row + wide_j * out_column
        tl.store(out + place, total, mask=written)
    else:
        place = beyond.to(tl.int64) * p * q + wide_i * q + wide_j
        tl.store(partial + place, total, mask=written)


def _add_further_pieces(  # type: ignore[no-untyped-def]
    further,
    partial,
    out,
    p,
    q,
    out_lane,
    out_row,
    out_column,
    P: tl.constexpr,
    Q: tl.constexpr,
) -> None:
    """Add to a (P, Q) block of out (lanes, p, q) those of its lane's further pieces, in order."""
    lane = tl.program_id(0)
    first, last = tl.load(further + lane), tl.load(further + lane + 1)
    if first < last:
        i = tl.program_id(1) * P + tl.arange(0, P)
        j = tl.program_id(2) * Q + tl.arange(0, Q)
        inside = (i < p)[:, None] & (j < q)[None, :]
        wide_i, wide_j = i.to(tl.int64)[:, None], j.to(tl.int64)[None, :]
        place = out + lane.to(tl.int64) * out_lane + wide_i * out_row + wide_j * out_column
        from_piece = partial + tl.where(inside, wide_i * q + wide_j, 0)
        total = tl.load(place, mask=inside, other=0.0)
        for piece in range(first, last):
            total += tl.load(from_piece + tl.cast(piece, tl.int64) * p * q, mask=inside, other=0.0)
        tl.store(place, total, mask=inside)


_kernel = triton.jit(_block_of_a_piece)
_adding = triton.jit(_add_further_pieces)


def blocks(p: int, q: int) -> tuple[int, int]:
    """Sizes of an output block: powers of two, the narrow side in one block where it fits."""
    narrow = min(_NARROW, max(_LEAST, triton.next_power_of_2(min(p, q))))
    wide = min(_WIDE, max(_LEAST, triton.next_power_of_2(max(p, q))))
    return (narrow, wide) if p <= q else (wide, narrow)


def further_pieces(starts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Lanes of the pieces that are not the first of theirs, and where each lane's begin.

    Args:
        starts: (lanes + 1,) int32.
        count: of such pieces, at most.

    Returns:
        (count,) int32, the last lane for those that do not exist, and (lanes + 1,) int32.
    """
    beyond = (starts.diff() - 1).clamp_(min=0).div_(_PIECE, rounding_mode="floor")
    ends = torch.nn.functional.pad(beyond.cumsum(0, dtype=torch.int32), (1, 0))
    piece = torch.arange(count, dtype=torch.int32, device=starts.device)
    lane = torch.searchsorted(ends[1:], piece, right=True, out_int32=True)
    return lane.clamp_(max=len(beyond) - 1), ends


def products(left: Tensor, right: Tensor, starts: Tensor, out: Tensor) -> None:
    """Write the products: left (n, p), right (n, q), starts (lanes + 1,), out (lanes, p, q)."""
    lanes, p, q = out.shape
    if not out.numel():
        return
    count = len(left) // _PIECE
    owners, further = further_pieces(starts, count)
    partial = torch.empty(count, p, q, dtype=torch.float32, device=out.device)
    block_p, block_q = blocks(p, q)
    area = (triton.cdiv(p, block_p), triton.cdiv(q, block_q))
    sizes = {"P": block_p, "Q": block_q}
    with torch.cuda.device(out.device) if out.is_cuda else contextlib.nullcontext():
        _kernel[(lanes + count, *area)](
            *(left, right, starts, owners, further, out, partial, lanes, p, q),
            *(*left.stride(), *right.stride(), *out.stride()),
            **sizes,
            PIECE=_PIECE,
            ROWS=_ROWS,
        )
        if count:
            _adding[(lanes, *area)](further, partial, out, p, q, *out.stride(), **sizes)
