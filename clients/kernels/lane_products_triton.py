"""The products of ragged rows by lane as one Triton kernel: a program per lane and output block.

Only constants are annotated: Triton compiles the annotations too, and knows no type of Python's.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 32  # of a lane that a program takes at a time
_WIDE, _NARROW = 128, 64  # largest output block: of the wide side, and of the narrow one
_LEAST = 16  # a block of a matrix product has at least so many rows and columns


def _block_of_a_lane(  # type: ignore[no-untyped-def]
    left,
    right,
    starts,
    out,
    p,
    q,
    left_row,
    left_column,
    right_row,
    right_column,
    out_lane,
    out_row,
    out_column,
    ROWS: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
) -> None:
    """A (P, Q) block of ``left_l^T right_l``: left (n, p), right (n, q), out (lanes, p, q).

    Places beyond the lane or the matrix are read as zero, from an address inside: a masked read
    may still form its address.
    """
    lane = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * P + tl.arange(0, P)
    j = tl.program_id(2) * Q + tl.arange(0, Q)
    in_p, in_q = i < p, j < q
    from_i = tl.where(in_p, i, 0).to(tl.int64) * left_column
    from_j = tl.where(in_q, j, 0).to(tl.int64) * right_column
    first = tl.load(starts + lane)
    last = tl.load(starts + lane + 1)
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
    place = i.to(tl.int64)[:, None] * out_row + j.to(tl.int64)[None, :] * out_column
    tl.store(out + lane * out_lane + place, total, mask=in_p[:, None] & in_q[None, :])


_kernel = triton.jit(_block_of_a_lane)


def blocks(p: int, q: int) -> tuple[int, int]:
    """Sizes of an output block: powers of two, the narrow side in one block where it fits."""
    narrow = min(_NARROW, max(_LEAST, triton.next_power_of_2(min(p, q))))
    wide = min(_WIDE, max(_LEAST, triton.next_power_of_2(max(p, q))))
    return (narrow, wide) if p <= q else (wide, narrow)


def products(left: Tensor, right: Tensor, starts: Tensor, out: Tensor) -> None:
    """Write the products: left (n, p), right (n, q), starts (lanes + 1,), out (lanes, p, q)."""
    lanes, p, q = out.shape
    if not out.numel():
        return
    block_p, block_q = blocks(p, q)
    grid = (lanes, triton.cdiv(p, block_p), triton.cdiv(q, block_q))
    sizes = {"ROWS": _ROWS, "P": block_p, "Q": block_q}
    strides = (*left.stride(), *right.stride(), *out.stride())
    with torch.cuda.device(out.device) if out.is_cuda else contextlib.nullcontext():
        _kernel[grid](left, right, starts, out, p, q, *strides, **sizes)
