"""Norms and weighted sums of rows: within their stated error of exact ones, without copies."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from userdp.clients.kernels import row_sums, self_check

UNIT = Fraction(1, 2**53)
LEAST, MOST = 2.0**-149, (2 - 2.0**-23) * 2.0**127  # of the positive float32 numbers


def exact_square(row):
    """The sum of squares of float32 numbers, as a fraction: they are whole multiples of 2^-149."""
    whole = [int(math.ldexp(value, 149)) for value in row.double().tolist()]
    return Fraction(sum(value * value for value in whole), 2**298)


def hard_rows(size):
    """(rows, size) float32 whose sums of squares are hard: one way, wide range, tiny, huge."""
    source = torch.Generator().manual_seed(size)
    wide = 10.0 ** (76 * torch.rand(size, generator=source, dtype=torch.float64) - 38)
    rising = torch.linspace(1e-4, 1, size)
    return torch.stack(
        [
            *(torch.full((size,), value) for value in (0.1, 1 / 3, -0.7, LEAST, 3e-42, MOST)),
            torch.randn(size, generator=source),
            *(wide.float(), rising, rising.flip(0), -1e30 * rising),
            torch.where(torch.arange(size) == size // 2, 1.0, 2.0**-27),  # each lost beside the 1
            torch.where(torch.arange(size) == 0, 1.0, 2.0**-27),
            torch.zeros(size),
        ]
    )


def in_blocks_of(numbers, monkeypatch):
    """A few numbers at a time, of one row or of several."""
    monkeypatch.setitem(row_sums._BLOCK, "cpu", numbers)
    monkeypatch.setattr(row_sums, "_WIDTH", 1 + numbers // 8)


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 40_000])
@pytest.mark.parametrize("block", [1, 100, 1 << 18])
def test_a_norm_is_within_its_stated_error_of_the_exact_one(size, block, monkeypatch):
    if block < size / 1000:
        pytest.skip("that many blocks take long")
    in_blocks_of(block, monkeypatch)
    rows = hard_rows(size)
    share = (size + 3) * UNIT
    for row, norm in zip(rows, row_sums.norms(rows).tolist(), strict=True):
        square = exact_square(row)
        assert (1 - share) ** 2 * square <= Fraction(norm) ** 2 <= (1 + share) ** 2 * square


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_norm_is_finite_exactly_where_the_row_is(dtype):
    largest = 1e150 if dtype == torch.float64 else torch.finfo(dtype).max
    rows = torch.full((5, 3000), largest, dtype=dtype)
    rows[1, 2999], rows[2, 0], rows[3, 1500] = torch.nan, torch.inf, -torch.inf
    assert torch.isfinite(row_sums.norms(rows)).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("block", [1, 64, 1 << 18])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_weighted_sum_is_that_of_the_rows_that_count(block, each, whole, monkeypatch):
    in_blocks_of(block, monkeypatch)
    source = torch.Generator().manual_seed(3)
    rows = torch.randn(6, 50, generator=source)
    rows[1], rows[4, 7] = torch.nan, -torch.inf
    counted = torch.tensor([True, False, True, True, False, True])
    factors = 9 * torch.rand(6, 50 if each else 1, generator=source, dtype=torch.float64)
    wanted = torch.zeros(50, dtype=torch.float64)
    for row, factor in zip(rows[counted].double(), factors[counted], strict=True):
        wanted += torch.trunc(row * factor) if whole else row * factor
    got = row_sums.weighted_sum(rows, factors, counted, whole)
    assert torch.allclose(got, wanted, rtol=1e-14, atol=1e-14)
    assert got.dtype == torch.float64
    everything = row_sums.weighted_sum(rows[counted], factors[counted], counted[counted], whole)
    assert torch.allclose(everything, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("lanes", [0, 1])
def test_no_row_or_one(lanes):
    rows = torch.ones(lanes, 4)
    counted = torch.ones(lanes, dtype=torch.bool)
    assert row_sums.norms(rows).tolist() == [2.0] * lanes
    factors = torch.ones(lanes, 1, dtype=torch.float64)
    assert row_sums.weighted_sum(rows, factors, counted).tolist() == [1.0 * lanes] * 4


class Traffic(TorchDispatchMode):
    """Bytes of a memory that operations read, and the largest tensor that they made."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.read, self.largest = rows.untyped_storage().data_ptr(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for part in tree_leaves((args, kwargs)):
                if isinstance(part, torch.Tensor):
                    inside = part.untyped_storage().data_ptr() == self.rows
                    self.read += inside * part.numel() * part.element_size()
        for part in tree_leaves(result):
            if isinstance(part, torch.Tensor):
                self.largest = max(
                    self.largest,
                    part.untyped_storage().nbytes()
                    * (part.untyped_storage().data_ptr() != self.rows),
                )
        return result


def test_rows_are_read_once_for_norms_and_once_for_the_sum_and_never_copied():
    """8 D bytes a lane after the 4 D that wrote them; what is held beside fits into a cache."""
    lanes, size = 64, 50_000
    rows = torch.randn(lanes, size, generator=torch.Generator().manual_seed(0))
    rows[3, 5] = torch.nan
    with Traffic(rows) as traffic:
        finite = torch.isfinite(row_sums.norms(rows))
        row_sums.weighted_sum(rows, torch.ones(lanes, 1, dtype=torch.float64), finite)
    assert traffic.read == 2 * 4 * lanes * size
    assert traffic.largest <= 8 * row_sums._BLOCK["cpu"] < 4 * lanes * size


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("norms", lambda rows: row_sums.norms_in_blocks(rows) * (1 + 1e-9)),
        ("norms", lambda rows: torch.linalg.vector_norm(rows, dim=1).double()),
        ("sum", lambda rows, *rest: row_sums.sum_in_blocks(rows, *rest) * (1 + 1e-9)),
        ("sum", lambda rows, factors, counted, whole: (rows * factors).sum(0)),
        ("sum", lambda rows, factors, counted, whole: row_sums.sum_in_blocks(
            rows, factors, counted, False)),
        (None, None),
    ],
)  # fmt: skip
def test_the_self_check_finds_a_kernel_that_is_not_float64(part, wrong, monkeypatch):
    monkeypatch.setattr(row_sums, "norms_in_triton", row_sums.norms_in_blocks)
    monkeypatch.setattr(row_sums, "sum_in_triton", row_sums.sum_in_blocks)
    if part is not None:
        monkeypatch.setattr(row_sums, f"{part}_in_triton", wrong)
    assert row_sums.agrees(torch.device("cpu")) is (part is None)


def test_the_device_chooses_the_backend(monkeypatch):
    assert row_sums.backend(torch.device("cpu")).name == "blocks"
    for found in (True, False):
        monkeypatch.setattr(self_check, "has_triton", lambda: True)
        monkeypatch.setattr(self_check, "passes", lambda check, device, found=found: found)
        assert row_sums.backend(torch.device("cuda:0")).name == ("triton" if found else "blocks")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_norms_and_sums_are_those_of_the_cpu_and_the_host_does_not_wait():
    rows = hard_rows(40_000)
    rows[2, 8], rows[5, 9] = torch.nan, torch.inf
    device = torch.device("cuda", torch.cuda.current_device())
    row_sums.backend(device)  # its self-check may wait
    factors = torch.rand(len(rows), 1, generator=torch.Generator().manual_seed(0)).double()
    counted = torch.isfinite(row_sums.norms(rows))
    given = [part.to(device) for part in (rows, factors, counted)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        norms, total = row_sums.norms(given[0]), row_sums.weighted_sum(*given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    close = {"rtol": 1e-11, "equal_nan": True}
    assert torch.allclose(norms.cpu(), row_sums.norms(rows), **close)
    wanted = row_sums.weighted_sum(rows, factors, counted)
    assert torch.allclose(total.cpu(), wanted, rtol=1e-11, atol=1e20)  # beside terms of 1e38
