"""The products ``left_l^T right_l`` of ragged rows by lane: weight gradients of lanes in one call.

The rows of all lanes stand one after another, and ``starts`` says where each lane begins; a lane
may have any number of rows, and none. With inputs and output gradients of a linear layer as rows,
the products are the layer's weight gradients, one per lane, accumulated in float32.

1. A lane's product depends on its own rows alone: on the CPU bit by bit for given ``starts``, and
   for bfloat16 rows whatever the other lanes' lengths. An inf or NaN never reaches another lane.
2. A lane without rows has a product of exact zeros.
3. Nothing is rounded to less than float32.
4. Except on the CPU, the host never waits for the device.

`BACKENDS` lists the implementations; the first that serves a device is taken:

| name   | device        | how                                                                  |
|--------|---------------|----------------------------------------------------------------------|
| runs   | CPU           | one batched product per run of lanes of equal length; bf16: a lane   |
| triton | CUDA          | one kernel; where Triton is installed and its self-check passes      |
| pieces | any other one | lanes cut into pieces of one length, a batched product, sums by lane |

So on a CPU, lanes of equal length should stand next to each other. Padding ragged lanes to one
length is slower there: copying a wide row costs more than multiplying it.

``torch._grouped_mm`` and ``torch.nn.functional.grouped_mm`` have the right shape and are in no row
of this table, for what torch 2.13 does:

- Its output has its inputs' type (``Grouped gemm output dtype must match``), so bfloat16 rows give
  products rounded to bfloat16. float32 rows on a GPU take a loop on the host, which waits.
- On Hopper GPUs a group without rows hung (pytorch#152668); on Blackwell GPUs it returned what the
  accumulator held before (pytorch#172439, CUTLASS#2674). A lane without rows is common here.
- It leaves output beyond its last group uninitialised (pytorch#193633, #154557): harmless for
  products of groups, a trap for whoever pads.
- Strides must be multiples of 16 bytes, and so must the length of every group if ``left`` is
  stored with rows as its last dimension. A rank of 3 or a lane of 7 rows is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from userdp.clients.kernels import self_check

_Compute = Callable[[Tensor, Tensor, Tensor, Tensor], None]  # left, right, starts, out
_SMALLEST_PIECE, _LARGEST_PIECE = 8, 1024  # rows
# Numbers of a product up to which a CPU is faster to write a batch of them in one piece and to copy
# that, than to write each product to its own place.
_SMALL_PRODUCT = 4096


class Backend(NamedTuple):
    """One implementation; it writes every number of ``out``."""

    name: str
    serves: Callable[[torch.device], bool]
    compute: _Compute


def by_lane(left: Tensor, right: Tensor, starts: Tensor, out: Tensor | None = None) -> Tensor:
    """``left_l^T right_l`` for every lane ``l``, accumulated in float32.

    No gradient flows through it. A compiled function keeps it as one operation.

    Args:
        left: (n, p) float32 or bfloat16.
        right: (n, q) of the same type. One of p and q is small, as the rank of LoRA is.
        starts: (lanes + 1,) int32, rising from 0 to n; lane l has rows starts[l]:starts[l + 1].
        out: (lanes, p, q) float32 of any strides, to be overwritten; None: a new tensor.

    Returns:
        (lanes, p, q) float32: ``out``.

    Raises:
        ValueError: the shapes or types do not fit together.
    """
    shape = (len(starts) - 1, left.shape[1], right.shape[1])
    if out is None:
        out = torch.empty(shape, dtype=torch.float32, device=left.device)
    if len(left) != len(right) or left.dtype != right.dtype:
        raise ValueError(f"Expected rows alike, got {left.shape}, {right.shape}, {right.dtype}.")
    if out.shape != shape or out.dtype != torch.float32:
        raise ValueError(f"Expected out of {shape} in float32, got {out.shape}, {out.dtype}.")
    torch.ops.userdp.lane_products(left, right, starts, out)
    return out


def backend(device: torch.device) -> Backend:
    """The implementation that serves a device; the first call for a GPU waits for its check."""
    return next(entry for entry in BACKENDS if entry.serves(device))


def in_runs(left: Tensor, right: Tensor, starts: Tensor, out: Tensor) -> None:
    """`by_lane` on the CPU: left (n, p), right (n, q), starts (lanes + 1,), out (lanes, p, q).

    Consecutive lanes of equal length are one batched product over views of the rows. For short
    lanes of unequal lengths the time goes into calls, so all views are made beforehand.
    """
    lane, found = 0, runs(starts, left.dtype)
    rows, products = [length * count for length, count in found], out.unbind()
    lefts, rights = torch.split(left.float().mT, rows, dim=1), torch.split(right.float(), rows)
    for (length, count), a, b in zip(found, lefts, rights, strict=True):
        if count == 1:
            torch.mm(a, b, out=products[lane])
        else:
            _batch(a.view(len(a), count, length), b, out[lane : lane + count])
        lane += count


def runs(starts: Tensor, dtype: torch.dtype) -> list[tuple[int, int]]:
    """Rows of a lane, and number of lanes, of each run of lanes of equal length on the CPU.

    A batch may be summed in another order than its parts, and its size depends on the lengths of
    others. That moves float32 products by rounding; a lane of a bfloat16 model is a run by itself,
    since with several local steps the rounding of its weights would multiply the difference.

    Args:
        starts: (lanes + 1,) int32.
        dtype: of the rows.
    """
    lengths = [end - start for start, end in itertools.pairwise(starts.tolist())]
    if dtype != torch.float32:
        return [(length, 1) for length in lengths]
    return [(length, len(list(run))) for length, run in itertools.groupby(lengths)]


def batched(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """``left_l^T right_l`` for lanes of equally many rows, in the precision of the rows.

    Args:
        left: (lanes, p, rows), already turned.
        right: (lanes, rows, q).
        out: (lanes, p, q) float32 of any strides, to be overwritten; None: a new tensor.

    Returns:
        (lanes, p, q) float32: ``out``.
    """
    if out is None:
        return torch.bmm(left, right).float()
    if left.dtype != torch.float32 or (left.device.type == "cpu" and _is_small(out)):
        return out.copy_(torch.bmm(left, right))
    return torch.bmm(left, right, out=out)


def _is_small(out: Tensor) -> bool:
    """Whether products (lanes, p, q) on a CPU are faster written in one piece and copied."""
    return not out.is_contiguous() and out[0].numel() <= _SMALL_PRODUCT


def _batch(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Lanes of equal length: left (p, lanes, rows), right (lanes rows, q), out (lanes, p, q)."""
    left, right = left.transpose(0, 1), right.view(*left.shape[1:], right.shape[1])
    batched(left, right, out)


def in_pieces(left: Tensor, right: Tensor, starts: Tensor, out: Tensor) -> None:
    """`by_lane` on any device: left (n, p), right (n, q), starts (lanes + 1,), out (lanes, p, q).

    Every lane is cut into pieces of one length, the last one filled up with zeros. How many pieces
    there are is known to the device alone; the host knows that they are at most n / length + lanes.
    """
    if not len(left) or not len(out):
        out.zero_()
        return
    rows, inside, ends = _pieces(len(left), starts.long())
    parts = [
        torch.where(inside[..., None], values[rows], 0.0).float() for values in (left, right)
    ]  # (pieces, length, p) and (pieces, length, q); selected, since 0 NaN = NaN
    products = torch.bmm(parts[0].mT, parts[1]).flatten(1)
    sums = torch.segment_reduce(products, "sum", offsets=ends, unsafe=True, initial=0.0)
    out.copy_(sums.view(out.shape))


def _pieces(n: int, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The row of each place (pieces, length), whether it has one, and ends of lanes (lanes + 1,).

    Args:
        n: rows of all lanes, at least 1.
        starts: (lanes + 1,) int64.
    """
    lanes = len(starts) - 1
    mean = 1 << (n // lanes).bit_length()
    length = min(max(mean, _SMALLEST_PIECE), _LARGEST_PIECE)
    counts = (starts.diff() + (length - 1)).div(length, rounding_mode="floor")
    ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    piece = torch.arange(n // length + lanes, device=starts.device)
    lane = torch.searchsorted(ends[1:], piece, right=True).clamp_(max=lanes - 1)
    first = starts[lane] + (piece - ends[lane]) * length
    rows = first[:, None] + torch.arange(length, device=starts.device)
    inside = rows < starts[lane + 1][:, None]
    return torch.where(inside, rows, 0), inside, ends


def in_triton(left: Tensor, right: Tensor, starts: Tensor, out: Tensor) -> None:
    """`by_lane` on a GPU: left (n, p), right (n, q), starts (lanes + 1,), out (lanes, p, q)."""
    from userdp.clients.kernels import lane_products_triton

    lane_products_triton.products(left, right, starts, out)


def agrees(device: torch.device) -> bool:
    """Whether `in_triton` computes on a device what `in_runs` does on the CPU: a small example."""
    source = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, 0, 1, 8, 300, 300], dtype=torch.int32)
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.randn(300, width, generator=source).to(dtype) for width in (5, 200))
        got = torch.full((5, 5, 200), torch.nan, device=device)
        wanted = torch.full((5, 5, 200), torch.nan)
        in_triton(left.to(device), right.to(device), starts.to(device), got)
        in_runs(left, right, starts, wanted)
        # Sums of up to 292 products of order 1.
        if not torch.allclose(got.cpu(), wanted, rtol=1e-4, atol=1e-3):
            return False
    return True


def _has_kernel(device: torch.device) -> bool:
    return device.type == "cuda" and self_check.has_triton() and self_check.passes(agrees, device)


BACKENDS = (
    Backend("runs", lambda device: device.type == "cpu", in_runs),
    Backend("triton", _has_kernel, in_triton),
    Backend("pieces", lambda device: True, in_pieces),
)


def _compute(left: Tensor, right: Tensor, starts: Tensor, out: Tensor) -> None:
    backend(left.device).compute(left, right, starts, out)


def _compute_nothing(left: Tensor, right: Tensor, starts: Tensor, out: Tensor) -> None:
    """For tensors without values: a compiler or a check of shapes."""


# An operation of torch's own kind: compilers pass over it, although it reads ``starts``.
_LIBRARY: Any = torch.library.Library("userdp", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("lane_products(Tensor left, Tensor right, Tensor starts, Tensor(a!) out) -> ()")
_LIBRARY.impl("lane_products", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("userdp::lane_products", _compute_nothing, lib=_LIBRARY)
