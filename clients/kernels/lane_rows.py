"""The products ``rows_l factor_l`` of ragged rows with the matrix of their own lane, in one call.

The rows of all lanes stand one after another, and ``starts`` says where each lane begins, as in
`userdp.clients.kernels.lane_products`. There the rows of a lane are contracted; here every row is
multiplied, as by the factors of an adapter that only this lane has.

A row's product depends on this row and on its lane's factor alone; an inf or NaN never reaches
another lane. In bfloat16 it is also rounded in the same way whatever the lengths of other lanes on
a CPU: each lane is a product of its own there. Except on the CPU, the host never waits.

`BACKENDS` lists the implementations; the first that serves a device is taken:

| name   | device        | how                                                                  |
|--------|---------------|----------------------------------------------------------------------|
| runs   | CPU           | one batched product per run of lanes of equal length                 |
| pieces | any other one | rows laid into pieces of one length, each of one lane; one product   |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from userdp.clients.kernels import lane_products

_Compute = Callable[[Tensor, Tensor, Tensor, Tensor], None]  # rows, factors, starts, out
# Rows; a lane computes at most so many for nothing, and its matrix is copied for each piece.
_PIECE = 32


class Backend(NamedTuple):
    """One implementation; it writes every number of ``out``."""

    name: str
    serves: Callable[[torch.device], bool]
    compute: _Compute


def by_lane(rows: Tensor, factors: Tensor, starts: Tensor) -> Tensor:
    """``rows_l factor_l`` for every lane ``l``, in the precision of the rows.

    No gradient flows through it. A compiled function keeps it as one operation.

    Args:
        rows: (n, k) float32 or bfloat16.
        factors: (lanes, k, q) of the same type and of any strides.
        starts: (lanes + 1,) int32, rising from 0 to n; lane l has rows starts[l]:starts[l + 1].

    Returns:
        (n, q) of the same type.

    Raises:
        ValueError: the shapes or types do not fit together.
    """
    shape = (len(starts) - 1, rows.shape[1])
    if factors.shape[:2] != shape or factors.dtype != rows.dtype:
        raise ValueError(
            f"Expected factors of {shape} in {rows.dtype}, got {factors.shape}, {factors.dtype}."
        )
    out = torch.empty(len(rows), factors.shape[2], dtype=rows.dtype, device=rows.device)
    torch.ops.userdp.lane_rows(rows, factors, starts, out)
    return out


def backend(device: torch.device) -> Backend:
    """The implementation that serves a device."""
    return next(entry for entry in BACKENDS if entry.serves(device))


def in_runs(rows: Tensor, factors: Tensor, starts: Tensor, out: Tensor) -> None:
    """`by_lane` on the CPU: rows (n, k), factors (lanes, k, q), starts (lanes + 1,), out (n, q)."""
    lane, row = 0, 0
    for length, count in lane_products.runs(starts, rows.dtype):
        part = slice(row, row + length * count)
        if count == 1:
            torch.mm(rows[part], factors[lane], out=out[part])
        else:
            given, got = (each[part].view(count, length, each.shape[1]) for each in (rows, out))
            torch.bmm(given, factors[lane : lane + count], out=got)
        lane, row = lane + count, part.stop


def in_pieces(rows: Tensor, factors: Tensor, starts: Tensor, out: Tensor) -> None:
    """`by_lane` on any device: rows (n, k), factors (lanes, k, q), starts, out (n, q).

    How many pieces there are is known to the device alone; the host knows that they are at most
    n / length + lanes. What no row is laid into is zero, and its products are not read.
    """
    if not len(rows) or not len(factors):
        out.zero_()
        return
    places, owners = _laid(len(rows), starts.long())
    laid = rows.new_zeros(len(owners) * _PIECE, rows.shape[1]).index_copy_(0, places, rows)
    products = torch.bmm(laid.view(len(owners), _PIECE, -1), factors[owners])
    torch.index_select(products.flatten(0, 1), 0, places, out=out)


def _laid(n: int, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row (n,) stands in flattened pieces, and the lane of each piece (pieces,).

    Args:
        n: rows of all lanes, at least 1.
        starts: (lanes + 1,) int64.
    """
    last = len(starts) - 2
    counts = (starts.diff() + (_PIECE - 1)).div(_PIECE, rounding_mode="floor")
    ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    row = torch.arange(n, device=starts.device)
    lane = torch.searchsorted(starts[1:], row, right=True).clamp_(max=last)
    places = ends[lane] * _PIECE + row - starts[lane]
    piece = torch.arange(n // _PIECE + len(counts), device=starts.device)
    return places, torch.searchsorted(ends[1:], piece, right=True).clamp_(max=last)


BACKENDS = (
    Backend("runs", lambda device: device.type == "cpu", in_runs),
    Backend("pieces", lambda device: True, in_pieces),
)


def _compute(rows: Tensor, factors: Tensor, starts: Tensor, out: Tensor) -> None:
    backend(rows.device).compute(rows, factors, starts, out)


def _compute_nothing(rows: Tensor, factors: Tensor, starts: Tensor, out: Tensor) -> None:
    """For tensors without values: a compiler or a check of shapes."""


# An operation of torch's own kind: compilers pass over it, although it reads ``starts``.
_LIBRARY: Any = torch.library.Library("userdp", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("lane_rows(Tensor rows, Tensor factors, Tensor starts, Tensor(a!) out) -> ()")
_LIBRARY.impl("lane_rows", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("userdp::lane_rows", _compute_nothing, lib=_LIBRARY)
