"""Norms and weighted sums of rows as Triton kernels, with float64 numbers in registers alone.

Only constants are annotated: Triton compiles the annotations too, and knows no type of Python's.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

_SQUARES, _SQUARE_STEPS = 1024, 16  # numbers of a row that a program takes at a time; times
_COLUMNS = 256  # that a program of the weighted sum adds up, over all lanes


def _squares_of_a_part(  # type: ignore[no-untyped-def]
    rows,
    out,
    size,
    row,
    column,
    parts,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """The sum of squares of a part of a row: rows (lanes, size), out (lanes, parts) float64."""
    lane = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1).to(tl.int64) * BLOCK * STEPS
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for step in range(STEPS):
        i = start + step * BLOCK + tl.arange(0, BLOCK)
        inside = i < size
        i = tl.where(inside, i, 0)
        x = tl.load(rows + lane * row + i * column, mask=inside, other=0.0).to(tl.float64)
        total += x * x
    tl.store(out + lane * parts + tl.program_id(1), tl.sum(total, axis=0))


def _weighted_columns(  # type: ignore[no-untyped-def]
    rows,
    factors,
    counted,
    out,
    lanes,
    size,
    row,
    column,
    factor_row,
    factor_column,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Some columns of the weighted sum: rows (lanes, size), factors, counted (lanes,), out (size,).

    A row that does not count is not read: its values could be NaN.
    """
    j = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = j < size
    j = tl.where(inside, j, 0)
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for lane in range(lanes):
        at = tl.cast(lane, tl.int64)
        read = inside & (tl.load(counted + at) != 0)
        x = tl.load(rows + at * row + j * column, mask=read, other=0.0).to(tl.float64)
        factor = tl.load(factors + at * factor_row + j * factor_column, mask=read, other=0.0)
        product = x * factor
        if WHOLE:
            product = tl.where(product < 0, tl.ceil(product), tl.floor(product))
        total += product
    tl.store(out + j, total, mask=inside)


_squares = triton.jit(_squares_of_a_part)
_weighted = triton.jit(_weighted_columns)


def norms(rows: Tensor) -> Tensor:
    """(lanes,) float64 L2 norms of ``rows (lanes, D)``."""
    lanes, size = rows.shape
    parts = max(1, triton.cdiv(size, _SQUARES * _SQUARE_STEPS))
    squares = torch.empty(lanes, parts, dtype=torch.float64, device=rows.device)
    if lanes:
        with _at(rows):
            _squares[(lanes, parts)](
                rows, squares, size, *rows.stride(), parts, BLOCK=_SQUARES, STEPS=_SQUARE_STEPS
            )
    return squares.sum(1).sqrt_()


def weighted_sum(rows: Tensor, factors: Tensor, counted: Tensor, whole: bool) -> Tensor:
    """(D,) float64 of rows (lanes, D), factors (lanes, 1 or D) and counted (lanes,)."""
    total = torch.empty(rows.shape[1], dtype=torch.float64, device=rows.device)
    if len(total):
        grid = (triton.cdiv(len(total), _COLUMNS),)
        wide = factors.expand(rows.shape)
        strides = (*rows.stride(), *wide.stride())
        with _at(rows):
            _weighted[grid](
                *(rows, factors, counted.to(torch.int8), total),
                *(*rows.shape, *strides),
                WHOLE=whole,
                BLOCK=_COLUMNS,
            )
    return total


def _at(rows: Tensor) -> contextlib.AbstractContextManager[object]:
    """Launch on the device of these rows (lanes, D), whichever is current."""
    return torch.cuda.device(rows.device) if rows.is_cuda else contextlib.nullcontext()
