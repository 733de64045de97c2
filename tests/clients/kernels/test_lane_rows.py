"""Ragged rows times the matrix of their lane: that of float64, whatever lies in other lanes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.ragged import LENGTHS, SMALL, ragged
from userdp.clients.kernels import lane_rows

WIDTHS = [(128, 1), (40, 3), (17, 129), (3, 40), (8, 8)]
COMPUTE = {"runs": lane_rows.in_runs, "pieces": lane_rows.in_pieces}
# Of a row's product, relative: rounded once to the type of the rows.
ERROR = {torch.float32: SMALL, torch.bfloat16: 2.0**-8}

every_backend = pytest.mark.parametrize("name", list(COMPUTE))
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def given(lengths, k, q, dtype=torch.float32, seed=0):
    """Rows (n, k), factors (lanes, k, q) and starts."""
    rows = ragged(lengths, k, 1, dtype, seed)
    source = torch.Generator().manual_seed(seed + 100)
    factors = torch.randn(len(lengths), k, q, generator=source).to(dtype)
    return rows.left, factors, rows.starts


def computed(name, rows, factors, starts):
    """By one backend, into memory that held NaN."""
    out = torch.full((len(rows), factors.shape[2]), torch.nan, dtype=rows.dtype)
    COMPUTE[name](rows, factors, starts, out)
    return out


def exact(rows, factors, starts):
    """(n, q) float64, row by row."""
    lanes = torch.arange(len(factors)).repeat_interleave(starts.diff())
    return torch.stack([r @ factors[lane].double() for r, lane in zip(rows.double(), lanes)])  # noqa: B905


def error(got, wanted):
    """Largest error of a row's product, relative to the largest row; infinite for NaN."""
    difference = (got.double() - wanted).norm(dim=1).max() / wanted.norm(dim=1).max()
    return float(difference.nan_to_num(nan=torch.inf))


@every_backend
@every_type
@pytest.mark.parametrize(("k", "q"), WIDTHS)
def test_each_rows_product_is_that_of_float64(name, dtype, k, q):
    case = given(LENGTHS, k, q, dtype)
    got = computed(name, *case)
    assert got.dtype == dtype
    assert error(got, exact(*case)) < ERROR[dtype]


@every_backend
@pytest.mark.parametrize("lane", [1, 2, 6, 9])
def test_the_tolerance_rejects_one_row_with_the_matrix_of_the_next_lane(name, lane):
    rows, factors, starts = given(LENGTHS, 8, 24)
    wrong = starts.clone()
    wrong[lane + 1] -= 1
    assert error(computed(name, rows, factors, wrong), exact(rows, factors, starts)) > 100 * SMALL


@every_backend
@pytest.mark.parametrize("lengths", [[0], [0, 0, 0], [1], [300], [5] * 7, [0, 9], [9, 0], [32] * 3])
def test_no_row_one_lane_and_lanes_without_rows(name, lengths):
    case = given(lengths, 3, 20)
    got = computed(name, *case)
    assert got.shape == (sum(lengths), 20)
    if sum(lengths):
        assert error(got, exact(*case)) < SMALL


@every_backend
def test_a_thousand_lanes(name):
    lengths = torch.randint(0, 8, (1000,), generator=torch.Generator().manual_seed(1)).tolist()
    case = given(lengths, 8, 24)
    assert error(computed(name, *case), exact(*case)) < SMALL


@every_backend
@every_type
def test_a_row_does_not_depend_on_what_other_lanes_hold(name, dtype):
    """Bit by bit; an inf or NaN of a row or a matrix stays in its own lane."""
    rows, factors, starts = given([40, 40, 7, 0, 90, 40], 8, 72, dtype)
    wanted = computed(name, rows, factors, starts)
    for lane, (start, end) in enumerate(itertools.pairwise(starts.tolist())):
        mine, mine_too = (torch.zeros(len(each), dtype=torch.bool) for each in (rows, factors))
        mine[start:end] = mine_too[lane] = True
        for poison in (1e30, torch.inf, torch.nan):
            bad = torch.where(mine[:, None], rows, poison), factors
            worse = rows, torch.where(mine_too[:, None, None], factors, poison)
            for one in (bad, worse):
                got = computed(name, *one, starts)
                assert torch.equal(got[mine], wanted[mine])
                assert not torch.isfinite(got[~mine]).all() or poison == 1e30


def test_in_bfloat16_a_lane_is_the_same_beside_lanes_of_any_length_on_a_cpu():
    rows, factors, starts = given([33, 33, 33, 5], 64, 24, torch.bfloat16)
    together = computed("runs", rows, factors, starts)
    for lane, (start, end) in enumerate(itertools.pairwise(starts.tolist())):
        one = torch.tensor([0, end - start], dtype=torch.int32)
        alone = computed("runs", rows[start:end], factors[lane : lane + 1], one)
        assert torch.equal(together[start:end], alone)


@every_backend
def test_rows_and_matrices_may_be_stored_in_any_order(name):
    rows, factors, starts = given([4, 4, 9, 1], 6, 50)
    wanted = computed(name, rows, factors, starts)
    turned = rows.T.clone().T, factors.mT.clone().mT, starts
    assert error(computed(name, *turned), wanted.double()) < SMALL


def test_one_function_computes_what_the_backend_of_the_device_does():
    case = given(LENGTHS, 8, 40)
    assert torch.equal(lane_rows.by_lane(*case), computed("runs", *case))
    assert lane_rows.backend(torch.device("cpu")).name == "runs"
    assert lane_rows.backend(torch.device("cuda:0")).name == "pieces"


@pytest.mark.parametrize(
    "change",
    [
        lambda rows, factors, starts: (rows, factors[:1], starts),
        lambda rows, factors, starts: (rows[:, :2], factors, starts),
        lambda rows, factors, starts: (rows, factors.bfloat16(), starts),
    ],
)
def test_what_does_not_fit_together_is_refused(change):
    with pytest.raises(ValueError, match="Expected"):
        lane_rows.by_lane(*change(*given([2, 3], 3, 4)))


def test_a_compiled_function_keeps_it_as_one_operation_for_every_length():
    def through(rows, factors, starts):
        return 2.0 * lane_rows.by_lane(rows * 3.0, factors, starts)

    torch._dynamo.reset()
    compiled = torch.compile(through, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in ([3, 4], [9, 0, 2], [1]):
        case = given(lengths, 4, 24)
        assert torch.equal(compiled(*case), through(*case))
    torch._dynamo.reset()


def test_pieces_never_ask_the_device_for_a_value():
    """A tensor of the device "meta" has none: whatever waits for one fails."""
    case = given([5, 0, 60], 2, 5)
    with pytest.raises(RuntimeError):
        lane_rows.in_runs(*[part.to("meta") for part in (*case, torch.empty(65, 5))])
    lane_rows._laid(65, case[2].long().to("meta"))
    with FakeTensorMode() as mode:
        lane_rows.in_pieces(*[mode.from_tensor(part) for part in (*case, torch.empty(65, 5))])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_type
def test_on_a_gpu_the_products_are_those_of_float64_and_the_host_does_not_wait(dtype):
    case = given(LENGTHS, 40, 24, dtype)
    there = [part.to("cuda") for part in case]
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = lane_rows.by_lane(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert error(got.cpu(), exact(*case)) < ERROR[dtype]
