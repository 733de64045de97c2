"""Every clip rule bounds each row by C exactly, whatever its values; the joint rule's details."""

from __future__ import annotations

import math
import sys
import types
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from userdp.clients.kernels import row_sums
from userdp.clients.training import clipping
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.layout import Layout

ANY = st.floats(width=32) | st.sampled_from([0.0, 1e-45, -1e-40, 1e30, -3e38, math.inf, math.nan])
ROWS = st.lists(st.lists(ANY, min_size=4, max_size=4), min_size=1, max_size=5)
CLIP = st.sampled_from([1e-30, 1e-3, 0.5, 1.0, 37.0, 1e30])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def layout(row):
    """Of an adapter with two tensors of about equal size."""
    half = len(row) // 2
    return Layout.of({"a": (half,), "b": (len(row) - half,)})


every_rule = pytest.mark.parametrize("name", list(clipping.CLIP_RULES))


def rows_of(values, dtype=torch.float32):
    return torch.tensor(values, dtype=torch.float64).to(dtype)


def exact_square(row):
    return sum((Fraction(x) ** 2 for x in row.tolist()), Fraction(0))


def slow_clip(row, clip_norm):
    """Oracle: the definition, in plain Python."""
    values = [float(x) for x in row]
    if not all(map(math.isfinite, values)):
        return [0.0] * len(values)
    norm = math.hypot(*values)
    factor = min(1.0, clip_norm / norm) if norm else 1.0
    return [factor * x for x in values]


@every_rule
@settings(max_examples=300, deadline=None)
@given(values=ROWS, clip_norm=CLIP, dtype=st.sampled_from(DTYPES))
def test_a_rows_contribution_is_finite_and_its_norm_at_most_c_exactly(
    name, values, clip_norm, dtype
):
    rule = clipping.CLIP_RULES.find(name)
    for row in rows_of(values, dtype):
        total = rule(row[None], clip_norm, layout(row)).total
        assert total.dtype == torch.float64
        assert torch.isfinite(total).all()
        assert exact_square(total) <= Fraction(clip_norm) ** 2
        if not torch.isfinite(row).all():
            assert not total.any()


@every_rule
@settings(max_examples=100, deadline=None)
@given(values=ROWS, clip_norm=CLIP)
def test_clipped_rows_have_norms_of_at_most_c_and_do_not_depend_on_other_rows(
    name, values, clip_norm
):
    rule, rows = clipping.CLIP_RULES.find(name), rows_of(values)
    together = rule(rows, clip_norm, layout(rows[0])).rows()
    alone = [rule(row[None], clip_norm, layout(row)).rows() for row in rows]
    assert torch.equal(together, torch.cat(alone))
    for row in together:
        assert exact_square(row) <= Fraction(clip_norm) ** 2


@every_rule
def test_the_sum_is_that_of_the_clipped_rows_without_the_not_finite_ones(name):
    rows = torch.tensor([[3.0, 4.0], [math.nan, 1.0], [0.0, 0.1], [math.inf, 0.0], [0.0, 0.0]])
    clipped = clipping.CLIP_RULES.find(name)(rows, 1.0, layout(rows[0]))
    assert clipped.rows().dtype == torch.float64
    assert clipped.rows().shape == (3, 2)
    np.testing.assert_allclose(clipped.rows().sum(0), clipped.total, rtol=1e-15)


@every_rule
def test_a_rule_leaves_its_rows_unchanged(name):
    rows = torch.tensor([[3.0, 4.0], [math.nan, 1.0]])
    before = rows.clone()
    clipping.CLIP_RULES.find(name)(rows, 0.1, layout(rows[0]))
    assert torch.equal(rows[0], before[0])
    assert torch.isnan(rows[1, 0])


@every_rule
@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan])
def test_a_clip_norm_that_is_not_positive_is_refused(name, clip_norm):
    with pytest.raises(ValueError, match="clip_norm="):
        clipping.CLIP_RULES.find(name)(torch.ones(1, 2), clip_norm, layout(torch.ones(2)))


def half_as_long(rows, clip_norm, layout):
    """A clip rule of another package: each row is scaled to at most half of ``clip_norm``."""
    return clipping.clipped_sum(rows, clip_norm / 2)


def test_a_dotted_name_finds_the_rule_of_another_package(monkeypatch):
    package = types.ModuleType("some_package")
    package.half_as_long = half_as_long
    monkeypatch.setitem(sys.modules, "some_package", package)
    rule = clipping.CLIP_RULES.find("some_package.half_as_long")
    rows = torch.tensor([[3.0, 4.0]])
    assert rule(rows, 1.0, layout(rows[0])).total.tolist() == pytest.approx([0.3, 0.4])


def no_clip(rows, clip_norm, layout):
    """A clip rule of another package that bounds nothing, and claims that all are within C."""
    count = len(rows)
    return clipping.ClippedSum(rows.sum(0).double(), torch.zeros(count), rows, torch.ones(count, 1))


@pytest.fixture
def unclipping(monkeypatch):
    package = types.ModuleType("some_package")
    package.no_clip, package.half_as_long = no_clip, half_as_long
    monkeypatch.setitem(sys.modules, "some_package", package)


def test_a_faulty_rule_of_another_package_cannot_leave_a_row_above_c(unclipping):
    rows = torch.tensor([[3.0, 4.0], [0.1, 0.0], [math.nan, 1.0], [math.inf, 0.0]])
    clipped = clipping.find("some_package.no_clip")(rows, 1.0, layout(rows[0]))
    assert clipped.total.tolist() == pytest.approx([0.7, 0.8])
    assert clipped.rows().tolist() == [pytest.approx([0.6, 0.8]), pytest.approx([0.1, 0.0])]
    assert all(exact_square(row) <= 1 for row in clipped.rows())


def test_a_correct_rule_of_another_package_is_left_as_it_is(unclipping):
    rows = torch.tensor([[3.0, 4.0], [0.1, 0.0]])
    clipped = clipping.find("some_package.half_as_long")(rows, 1.0, layout(rows[0]))
    wanted = half_as_long(rows, 1.0, layout(rows[0]))
    assert clipped.total.tolist() == wanted.total.tolist()
    assert clipped.rows().tolist() == wanted.rows().tolist()


def test_an_unknown_rule_is_refused_with_the_known_names():
    with pytest.raises(ConfigurationError, match=r"contract.clipping=joimt: choose one of joint\."):
        clipping.CLIP_RULES.find("joimt")


@settings(max_examples=300, deadline=None)
@given(ROWS, CLIP, st.sampled_from(DTYPES))
def test_the_sum_is_the_sum_of_the_definition_row_by_row(values, clip_norm, dtype):
    rows = rows_of(values, dtype)
    wanted = np.sum([slow_clip(row, clip_norm) for row in rows], axis=0)
    scale = clip_norm * len(rows)
    got = clipping.clipped_sum(rows, clip_norm).total.numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12 * scale)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), st.floats(1.0, 1e6))
def test_a_long_row_keeps_its_direction_and_a_short_row_every_bit(values, stretch):
    row = rows_of([values])
    norm = math.hypot(*row[0].tolist())
    if norm < 1e-30:
        return
    inside = clipping.clipped_sum(row, norm * (1 + 1e-9)).total
    assert torch.equal(inside, row[0].double())
    clip_norm = norm / stretch
    clipped = clipping.clipped_sum(row, clip_norm).total
    np.testing.assert_allclose(clipped * stretch, row[0].double(), rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7])
@pytest.mark.parametrize("size", [100_003, 1_000_000])
def test_rounding_in_the_norm_of_a_wide_row_never_lets_it_exceed_c(value, size):
    """Equal entries: the squares' rounding errors all point the same way."""
    total = clipping.clipped_sum(torch.full((1, size), value), 1.0).total
    assert total.min() == total.max()
    assert size * Fraction(float(total[0])) ** 2 <= 1
    assert size * float(total[0]) ** 2 > 1 - 1e-8  # and not far under it


@pytest.mark.parametrize("size", [1, 2, 30, 10**3, 10**6, 10**8, 10**12])
def test_the_limit_covers_every_rounding_error_of_norm_factor_and_product(size):
    """The last steps of the proof in `clipping.clipped_sum`, in exact arithmetic."""
    unit = Fraction(1, 2**53)
    limit = Fraction(1.0 - (size + 8) * 2.0**-53)
    assert limit == 1 - (size + 8) * unit  # nothing is rounded in the bracket
    computed_norm = 1 - (size + 3) * unit  # of a row of norm 1, at least
    assert (1 + unit) ** 3 * limit / computed_norm < 1
    assert (1 + unit) ** 3 * (1 - (size + 5) * unit) / computed_norm > 1  # and 5 would not do


TINY, HUGE = 2.0**-149, (2 - 2.0**-23) * 2.0**127  # of the positive float32 numbers


def hard_rows(size):
    """Rows whose sums of squares are rounded one way, lose small numbers, or leave float32."""
    steps = torch.arange(1, size + 1)
    source = torch.Generator().manual_seed(size)
    return torch.stack(
        [
            *(torch.full((size,), value) for value in (0.1, 1 / 3, -0.7, TINY, 3e-42, HUGE)),
            *(torch.randn(size, generator=source) for _ in range(5)),
            torch.randn(size, generator=source).exp().pow(9),
            torch.where(steps == 1, 1.0, 2.0**-27),  # squares of half an ulp of the sum
            torch.where(steps == size, 1e30, TINY),
        ]
    )


def exact_square_fast(row):
    """`exact_square` by whole numbers: float64 numbers are whole multiples of 2^-1074."""
    ratios = [value.as_integer_ratio() for value in row.tolist()]
    common = max(below for _, below in ratios)
    whole = (above * (common // below) for above, below in ratios)
    return Fraction(sum(value * value for value in whole), common**2)


@pytest.mark.parametrize("size", [1, 3, 50, 5_000])
@pytest.mark.parametrize(
    "clip_norm", [5e-324, 1e-310, 1e-301, 3e-290, 1e-200, TINY, 0.3, 1.0, 7e5, HUGE, 1e300]
)
def test_no_row_and_no_clip_norm_leaves_a_contribution_above_c(size, clip_norm):
    bound = Fraction(clip_norm) ** 2
    for row in hard_rows(size):
        total = clipping.clipped_sum(row[None], clip_norm).total
        assert exact_square_fast(total) <= bound
        enters = Fraction(2) ** -1600 * exact_square_fast(row.double()) < bound
        assert bool(total.any()) is bool(row.any()) or not enters


@pytest.mark.parametrize("clip_norm", [0.1, 0.7, 1.0, 1.0000001, 1.3, 1.9999])
def test_of_ten_thousand_rows_of_one_number_or_two_none_is_rounded_to_above_c(clip_norm):
    """Where D is small, what matters is the rounding of limit, factor and product."""
    source = torch.Generator().manual_seed(0)
    one, two = (5.0 * torch.randn(10_000, size, generator=source).exp() for size in (1, 2))
    assert (clipping.clipped_sum(one, clip_norm).rows() <= clip_norm).all()
    bound = Fraction(clip_norm) ** 2
    for row in clipping.clipped_sum(two, clip_norm).rows():
        assert exact_square_fast(row) <= bound


@pytest.mark.parametrize("size", [1, 2, 3, 17, 400])
def test_at_c_to_the_last_bit_a_row_is_scaled_by_rounding_alone_or_not_at_all(size):
    """C is put on the norm, on the float64 numbers around it, and where a row is to stay whole."""
    for row in hard_rows(size):
        norm = math.sqrt(exact_square_fast(row.double()))
        for clip_norm in (norm, math.nextafter(norm, 0), math.nextafter(norm, math.inf)):
            total = clipping.clipped_sum(row[None], clip_norm).total
            assert exact_square_fast(total) <= Fraction(clip_norm) ** 2
            np.testing.assert_allclose(total, row.double(), rtol=(size + 12) * 2.0**-52)
        stays = norm / (1 - (size + 8) * 2.0**-52) * (1 + 2.0**-51)
        assert torch.equal(clipping.clipped_sum(row[None], stays).total, row.double())


def test_one_norm_for_the_whole_row_not_one_a_layer():
    row = torch.tensor([[3.0, 0.0, 0.0, 4.0]])
    assert clipping.clipped_sum(row, 1.0).total.tolist() == pytest.approx([0.6, 0, 0, 0.8])


def test_rows_are_clipped_before_they_are_added():
    """Opposite long rows cancel after their clip, equal ones reach twice C."""
    up, down = torch.tensor([1e6, 0.0]), torch.tensor([-3.0, 0.0])
    assert clipping.clipped_sum(torch.stack([up, down]), 1.0).total.norm() < 1e-8
    assert float(clipping.clipped_sum(torch.stack([up, up]), 1.0).total.norm()) == pytest.approx(
        2.0
    )


def test_norms_are_those_before_the_clip_and_infinite_for_a_not_finite_row():
    rows = torch.tensor([[3.0, 4.0], [math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0]])
    assert clipping.clipped_sum(rows, 1.0).norms.tolist() == [5.0, math.inf, math.inf, 0.0]


def test_an_infinite_clip_norm_removes_not_finite_rows_only():
    rows = torch.tensor([[3.0, 4.0], [math.nan, 1.0], [0.0, 0.0]])
    assert clipping.clipped_sum(rows, math.inf).total.tolist() == [3.0, 4.0]


def test_the_clipped_rows_are_those_of_the_definition():
    rows = torch.tensor([[3.0, 4.0], [math.nan, 1.0], [0.0, 0.1], [math.inf, 0.0], [0.0, 0.0]])
    clipped = clipping.clipped_sum(rows, 1.0).rows()
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [0.0, 0.1], [0.0, 0.0]], rtol=1e-7)


@pytest.mark.parametrize("at_a_time", [1, 7, 64])
def test_columns_taken_a_few_at_a_time_give_the_norm_of_the_whole_row(at_a_time, monkeypatch):
    monkeypatch.setitem(row_sums._BLOCK, "cpu", at_a_time)
    monkeypatch.setattr(row_sums, "_WIDTH", 1)
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    wanted = np.sum([slow_clip(row, 2.0) for row in rows], axis=0)
    np.testing.assert_allclose(
        clipping.clipped_sum(rows, 2.0).total, wanted, rtol=1e-12, atol=1e-14
    )
