"""Products of ragged rows by lane: those of float64, whatever the lengths, widths and storage."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.ragged import LENGTHS, SMALL, Ragged, error, exact, ragged
from userdp.clients.kernels import lane_products, self_check

WIDTHS = [(1, 128), (3, 40), (8, 136), (17, 129), (130, 17), (256, 8)]
COMPUTE = {"runs": lane_products.in_runs, "pieces": lane_products.in_pieces}

every_backend = pytest.mark.parametrize("name", list(COMPUTE))
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def computed(name, rows, out=None):
    """By one backend, into memory that held NaN."""
    shape = (len(rows.starts) - 1, rows.left.shape[1], rows.right.shape[1])
    out = torch.full(shape, torch.nan) if out is None else out
    COMPUTE[name](*rows, out)
    return out


@every_backend
@every_type
@pytest.mark.parametrize(("p", "q"), WIDTHS)
def test_each_lanes_product_is_that_of_float64(name, dtype, p, q):
    rows = ragged(LENGTHS, p, q, dtype)
    got = computed(name, rows)
    assert got.dtype == torch.float32
    assert error(got, exact(rows)) < SMALL
    assert not got[torch.tensor(LENGTHS) == 0].any()  # exact zeros


def without_a_row(rows, lane):
    """Its last row is zero, as if it was left out."""
    left = rows.left.clone()
    left[rows.starts[lane + 1] - 1] = 0
    return rows._replace(left=left)


def with_a_neighbours_row(rows, lane):
    """The lane's last row counts for the next one."""
    starts = rows.starts.clone()
    starts[lane + 1] -= 1
    return rows._replace(starts=starts)


@pytest.mark.parametrize("lane", [2, 3, 6, 7])
def test_the_tolerance_rejects_one_wrong_row_of_thousands_a_wrong_scale_and_bfloat16(lane):
    rows = ragged(LENGTHS, 8, 136)
    wanted = exact(rows)
    for wrong in (without_a_row, with_a_neighbours_row):
        assert error(computed("runs", wrong(rows, lane)), wanted) > 100 * SMALL
    got = computed("runs", rows)
    for wrong in (1.01 * got, got.to(torch.bfloat16)):
        assert error(wrong, wanted) > 100 * SMALL


@every_backend
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [1], [300], [5] * 7, [0, 9], [9, 0]])
def test_no_lane_one_lane_and_lanes_without_rows(name, lengths):
    rows = ragged(lengths, 3, 20)
    if not lengths:
        assert computed(name, rows).shape == (0, 3, 20)
    else:
        assert error(computed(name, rows), exact(rows)) < SMALL


@every_backend
def test_a_thousand_lanes(name):
    lengths = torch.randint(0, 8, (1000,), generator=torch.Generator().manual_seed(1)).tolist()
    rows = ragged(lengths, 8, 24)
    assert error(computed(name, rows), exact(rows)) < SMALL


@every_backend
@every_type
def test_a_lane_does_not_depend_on_what_the_others_hold(name, dtype):
    """Bit by bit; an inf or NaN stays in its own lane."""
    rows, other = (ragged([40, 40, 7, 0, 90, 40], 8, 72, dtype, seed) for seed in (0, 1))
    wanted = computed(name, rows)
    for lane, (start, end) in enumerate(rows.starts.unfold(0, 2, 1).tolist()):
        mine = torch.zeros(len(rows.left), 1, dtype=torch.bool)
        mine[start:end] = True
        for poison in (1.0, 1e30, torch.inf, torch.nan):
            mixed = [
                torch.where(mine, kept, poison * new)
                for kept, new in zip(rows[:2], other[:2], strict=True)
            ]
            got = computed(name, Ragged(*mixed, rows.starts))
            assert torch.equal(got[lane], wanted[lane])
            if poison != poison and end > start:
                filled = [place for place in (0, 1, 2, 4, 5) if place != lane]
                assert got[filled].isnan().all()


@every_backend
@every_type
@pytest.mark.parametrize("q", [50, 800])  # products copied into place, and written there
def test_rows_and_products_may_be_stored_in_any_order(name, dtype, q):
    rows = ragged([4, 4, 9, 1], 6, q, dtype)
    wanted = computed(name, rows)
    turned = Ragged(rows.left.T.clone().T, rows.right.T.clone().T, rows.starts)
    gradient = torch.full((4, 20 * q), torch.nan)  # of a lane, with other leaves around this one
    straight, across = gradient[:, q : 7 * q], gradient[:, 10 * q : 16 * q]
    for given in (rows, turned):
        for out in (straight.view(4, 6, q), across.view(4, q, 6).mT):
            computed(name, given, out)
            assert error(out, wanted.double()) < SMALL
    assert gradient.isnan().sum() == 4 * 8 * q


def test_one_function_computes_what_the_backend_of_the_device_does():
    rows = ragged(LENGTHS, 8, 40)
    wanted = computed("runs", rows)
    assert torch.equal(lane_products.by_lane(*rows), wanted)
    out = torch.empty_like(wanted)
    assert lane_products.by_lane(*rows, out=out) is out
    assert torch.equal(out, wanted)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows._replace(left=rows.left[:-1]),
        lambda rows: rows._replace(right=rows.right.bfloat16()),
        lambda rows: (*rows, torch.empty(2, 3, 5)),
        lambda rows: (*rows, torch.empty(2, 3, 4, dtype=torch.bfloat16)),
    ],
)
def test_what_does_not_fit_together_is_refused(change):
    with pytest.raises(ValueError, match="Expected"):
        lane_products.by_lane(*change(ragged([2, 3], 3, 4)))


def test_a_compiled_function_keeps_it_as_one_operation_for_every_length():
    def gradient(left, right, starts):
        return 2.0 * lane_products.by_lane(left * 3.0, right, starts)

    torch._dynamo.reset()
    compiled = torch.compile(gradient, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in ([3, 4], [9, 0, 2], [1]):
        rows = ragged(lengths, 4, 24)
        assert torch.equal(compiled(*rows), gradient(*rows))
    torch._dynamo.reset()


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_tensors_without_values_get_the_shape_and_nothing_is_read(device):
    with FakeTensorMode() if device == "cuda" else torch.device("meta"):
        left, right = torch.empty(9, 2, device=device), torch.empty(9, 5, device=device)
        starts = torch.empty(4, dtype=torch.int32, device=device)
        got = lane_products.by_lane(left, right, starts)
        assert got.shape == (3, 2, 5)
        assert got.device.type == device


def test_pieces_never_ask_the_device_for_a_value():
    """A tensor of the device "meta" has none: whatever waits for one fails."""
    rows = ragged([5, 0, 6], 2, 5)
    with pytest.raises(RuntimeError):
        lane_products.in_runs(*[part.to("meta") for part in (*rows, torch.empty(3, 2, 5))])
    lane_products._pieces(11, rows.starts.long().to("meta"))
    with FakeTensorMode() as mode:
        given = [mode.from_tensor(part) for part in (*rows, torch.empty(3, 2, 5))]
        lane_products.in_pieces(*given)


def test_the_device_chooses_the_backend(monkeypatch):
    def name(kind):
        return lane_products.backend(torch.device(kind)).name

    assert (name("cpu"), name("meta")) == ("runs", "pieces")
    monkeypatch.setattr(self_check, "has_triton", lambda: False)
    assert name("cuda:0") == "pieces"
    monkeypatch.setattr(self_check, "has_triton", lambda: True)
    for found in (True, False):
        monkeypatch.setattr(self_check, "passes", lambda check, device, found=found: found)
        assert name("cuda:0") == ("triton" if found else "pieces")


@pytest.mark.parametrize(("factor", "good"), [(1.0, True), (1.01, False)])
def test_the_self_check_finds_a_kernel_that_is_off_by_a_percent(factor, good, monkeypatch):
    def kernel(left, right, starts, out):
        lane_products.in_pieces(factor * left, right, starts, out)

    monkeypatch.setattr(lane_products, "in_triton", kernel)
    assert lane_products.agrees(torch.device("cpu")) is good


def test_a_kernel_that_fails_is_left_alone_and_its_message_is_not_logged(caplog):
    def fails(device):
        raise RuntimeError("the text of a record")

    def wrong(device):
        return False

    self_check.passes.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not self_check.passes(fails, torch.device("cpu"))
        assert not self_check.passes(wrong, torch.device("cpu"))
    assert "RuntimeError" in caplog.text
    assert "wrong" in caplog.text
    assert "record" not in caplog.text
    self_check.passes.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_type
@pytest.mark.parametrize(("p", "q"), WIDTHS)
def test_on_a_gpu_the_products_are_those_of_float64_and_the_host_does_not_wait(dtype, p, q):
    rows = ragged(LENGTHS, p, q, dtype)
    device = torch.device("cuda", torch.cuda.current_device())
    lane_products.backend(device)  # its self-check may wait
    given = [part.to(device) for part in rows]
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = lane_products.by_lane(*given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert error(got.cpu(), exact(rows)) < SMALL
