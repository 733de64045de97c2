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

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from userdp.clients.kernels import self_check

# float64 numbers of the buffer, by device: a CPU's cores keep them in their second-level caches,
# a GPU in the one that all its cores share. Larger ones would be written to memory and read back.
_BLOCK = {"cpu": 1 << 17, "cuda": 1 << 21}


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
    parts = [torch.linalg.vector_norm(wide, dim=1) for _, wide in _blocks(rows)]
    return torch.linalg.vector_norm(torch.stack(parts), dim=0)


def sum_in_blocks(rows: Tensor, factors: Tensor, counted: Tensor, whole: bool) -> Tensor:
    """`weighted_sum` of rows (lanes, D), factors (lanes, 1 or D), counted (lanes,) on any device.

    A CPU looks whether all rows count, and saves a pass over the buffer; a GPU would have to wait.
    """
    total = torch.empty(rows.shape[1], dtype=torch.float64, device=rows.device)
    left_out = ~counted[:, None]
    all_count = rows.device.type == "cpu" and bool(counted.all())
    for part, wide in _blocks(rows):
        if not all_count:
            wide.masked_fill_(left_out, 0.0)
        if factors.shape[1] == 1 and not whole:
            torch.mv(wide.mT, factors[:, 0], out=total[part])
            continue
        wide.mul_(factors if factors.shape[1] == 1 else factors[:, part])
        torch.sum(wide.trunc_() if whole else wide, dim=0, out=total[part])
    return total


def _blocks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of columns of ``rows (lanes, D)``: their slice, and (lanes, .) float64 in one buffer.

    A block is overwritten by the next one.
    """
    lanes, size = rows.shape
    width = max(1, min(size, _BLOCK.get(rows.device.type, 1 << 21) // max(1, lanes)))
    buffer = torch.empty(lanes * width, dtype=torch.float64, device=rows.device)
    for start in range(0, size, width):
        part = slice(start, min(start + width, size))
        wide = buffer[: lanes * (part.stop - start)].view(lanes, part.stop - start)
        yield part, wide.copy_(rows[:, part])


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
    close = {"rtol": 1e-12, "equal_nan": True}
    good = torch.allclose(norms_in_triton(rows), sizes, **close)
    factors = torch.where(counted, 1.0 / sizes, 0.0)[:, None]
    for given in (factors, factors.expand(rows.shape).contiguous()):
        for scale, whole in ((1.0, False), (1e6, True)):
            options = (rows, scale * given, counted, whole)
            good &= torch.allclose(sum_in_triton(*options), sum_in_blocks(*options), **close)
    return good


def _has_kernel(device: torch.device) -> bool:
    return device.type == "cuda" and self_check.has_triton() and self_check.passes(agrees, device)


BACKENDS = (
    Backend("triton", _has_kernel, norms_in_triton, sum_in_triton),
    Backend("blocks", lambda device: True, norms_in_blocks, sum_in_blocks),
)
