"""Norms and weighted sums of rows in float64, without a float64 copy of the rows.

Rows are the updates of lanes, ``(lanes, D)`` in float32 or narrower (float64 is possible). Norm and
sum read them once each, 4 D bytes a lane for float32; a float64 number exists for as long as it
takes to add it up. With the 4 D bytes that wrote a row, clip and sum move 12 D bytes a lane.

`BACKENDS` lists the implementations; the first that serves a device is taken:

| name   | device    | where a float64 number lives                                                |
|--------|-----------|-----------------------------------------------------------------------------|
| triton | CUDA      | in registers; where Triton is installed and its self-check passes           |
| blocks | any other | in one buffer, filled again and again, that a core's or GPU's cache holds   |

A reduction of torch with ``dtype=torch.float64`` would not do: torch 2.13 first copies all of its
input to float64.

What the clip builds on, with u = 2^-53:

- The square of a float32 number is exact in float64, and neither overflows nor underflows: it is 0,
  or between 2^-298 and 2^256. A norm is thus inf or NaN only if its row holds an inf or NaN.
- The squares are added up in some order, in parts whose roots are squared and added again. Every
  operation has a relative error of at most u, and no square passes through more than D + 2 of
  them, so a computed norm is at least (1 - (D + 3) u) and at most (1 + (D + 3) u) times the norm.
- A term of a weighted sum is one product, with a relative error of at most u (none where a fused
  operation adds it unrounded).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from userdp.clients.kernels import self_check

# float64 numbers of the buffer, by device: a CPU's cores keep them in their second-level caches,
# a GPU in the one that all its cores share. More would be written to memory and read back, and with
# fewer the threads of a busy machine wait for each other too often.
_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 21}
_WIDTH = 1 << 12  # columns of a block, at least: shorter pieces of many rows are slow to read


class Backend(NamedTuple):
    """One implementation; its functions are described at `norms` and `weighted_sum`."""

    name: str
    serves: Callable[[torch.device], bool]
    norms: Callable[[Tensor], Tensor]
    weighted_sum: Callable[[Tensor, Tensor, Tensor, bool], Tensor]


def norms(rows: Tensor) -> Tensor:
    """(lanes,) float64 L2 norms of ``rows (lanes, D)``; not finite where the row is not finite."""
    return backend(rows.device).norms(rows)


def weighted_sum(rows: Tensor, factors: Tensor, counted: Tensor, whole: bool = False) -> Tensor:
    """(D,) float64 sum of ``factors * rows``, without the rows that do not count.

    Args:
        rows: (lanes, D).
        factors: (lanes, 1), or (lanes, D) per coordinate, float64.
        counted: (lanes,) bool; other rows add nothing, whatever they hold.
        whole: round every product towards zero to a whole number before it is added.
    """
    return backend(rows.device).weighted_sum(rows, factors, counted, whole)


def backend(device: torch.device) -> Backend:
    """The implementation that serves a device; the first call for a GPU waits for its check."""
    return next(entry for entry in BACKENDS if entry.serves(device))


def norms_in_blocks(rows: Tensor) -> Tensor:
    """`norms` of rows (lanes, D) on any device."""
    squares = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for some, _, wide in _blocks(rows):
        squares[some] += torch.linalg.vector_norm(wide, dim=1).square_()
    return squares.sqrt_()


def sum_in_blocks(rows: Tensor, factors: Tensor, counted: Tensor, whole: bool) -> Tensor:
    """`weighted_sum` of rows (lanes, D), factors (lanes, 1 or D), counted (lanes,) on any device.

    A CPU looks whether all rows count, and saves a pass over the buffer; a GPU would have to wait.
    """
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    left_out = ~counted[:, None]
    all_count = rows.device.type == "cpu" and bool(counted.all())
    for some, part, wide in _blocks(rows):
        if not all_count:
            wide.masked_fill_(left_out[some], 0.0)
        if factors.shape[1] == 1 and not whole:
            total[part].addmv_(wide.mT, factors[some, 0])
            continue
        wide.mul_(factors[some] if factors.shape[1] == 1 else factors[some, part])
        total[part] += (wide.trunc_() if whole else wide).sum(0)
    return total


def _blocks(rows: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of ``rows (lanes, D)``: their lanes and columns, and (., .) float64 in one buffer.

    A block is overwritten by the next one. Those of the same columns follow one another.
    """
    (lanes, size), numbers = rows.shape, _BLOCK.get(rows.device.type, _BLOCK["cuda"])
    width = min(size, max(_WIDTH, numbers // max(1, lanes)))
    height = max(1, min(lanes, numbers // width))
    buffer = torch.empty(height * width, dtype=torch.float64, device=rows.device)
    for column, lane in itertools.product(range(0, size, width), range(0, lanes, height)):
        some, part = slice(lane, lane + height), slice(column, column + width)
        narrow = rows[some, part]
        yield some, part, buffer[: narrow.numel()].view(narrow.shape).copy_(narrow)


def norms_in_triton(rows: Tensor) -> Tensor:
    """`norms` of rows (lanes, D) on a GPU."""
    from userdp.clients.kernels import row_sums_triton

    return row_sums_triton.norms(rows)


def sum_in_triton(rows: Tensor, factors: Tensor, counted: Tensor, whole: bool) -> Tensor:
    """`weighted_sum` of rows (lanes, D), factors (lanes, 1 or D), counted (lanes,) on a GPU."""
    from userdp.clients.kernels import row_sums_triton

    return row_sums_triton.weighted_sum(rows, factors, counted, whole)


def agrees(device: torch.device) -> bool:
    """Whether the kernels compute on a device what blocks do there, for a small example."""
    rows = torch.randn(5, 5000, generator=torch.Generator().manual_seed(0)).to(device)
    rows[0] *= 1e30  # its squares overflow float32
    rows[1] *= 1e-30
    rows[2, 7], rows[3, 4999] = torch.nan, torch.inf
    sizes = norms_in_blocks(rows)
    counted = torch.isfinite(sizes)
    close = functools.partial(torch.allclose, rtol=1e-12, equal_nan=True)
    good = close(norms_in_triton(rows), sizes)
    factors = torch.where(counted, 1.0 / sizes, 0.0)[:, None]
    for given in (factors, factors.expand(rows.shape).contiguous()):
        for scale, whole in ((1.0, False), (1e6, True)):
            options = (rows, scale * given, counted, whole)
            good &= close(sum_in_triton(*options), sum_in_blocks(*options))
    return good


def _has_kernel(device: torch.device) -> bool:
    return device.type == "cuda" and self_check.has_triton() and self_check.passes(agrees, device)


BACKENDS = (
    Backend("triton", _has_kernel, norms_in_triton, sum_in_triton),
    Backend("blocks", lambda device: True, norms_in_blocks, sum_in_blocks),
)
