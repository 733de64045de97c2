"""Fixed point adds up as integers do, on a grid on which no possible sum overflows."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol import fixed_point
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.fixed_point import FIGURES, FixedPoint
from userdp.sim.tracking import metric_kinds

GRID = 2.0**-30
FIXED = FixedPoint(size=5, grid=GRID, nodes=3, count_unclipped=True)


def cohort(steps, bits=0.5, figure=3.0):
    total = np.array([step * GRID for step in steps])
    return CohortSum(total, dict.fromkeys(FIGURES, figure), bits)


steps = st.lists(st.integers(-(2**52), 2**52), min_size=5, max_size=5)


@given(st.lists(st.tuples(steps, st.integers(-9, 9)), min_size=3, max_size=3))
def test_vectors_add_up_as_pythons_integers_do(nodes):
    vectors = [FIXED.encoded(cohort(part, bits / 2)) for part, bits in nodes]
    total = [sum(column) for column in zip(*(part for part, _ in nodes), strict=True)]
    added = sum(vectors, np.zeros(FIXED.length, np.uint64))
    assert added[:5].tolist() == [step % 2**64 for step in total]
    assert int(added[5]) == sum(bits for _, bits in nodes) % 2**64
    if max(map(abs, total)) <= 2**52:
        decoded = FIXED.decoded(added)
        exact = [Fraction(step) * Fraction(GRID) for step in total]
        assert [Fraction(x) for x in decoded.total.tolist()] == exact
        assert decoded.unclipped_bits == sum(bits for _, bits in nodes) / 2


@given(st.floats(1e-6, 1e6), st.integers(1, 2**31))
def test_the_grid_is_the_finest_power_of_two_on_which_all_sums_are_exact(clip_norm, units):
    grid = fixed_point.grid(clip_norm, units)
    assert math.frexp(grid)[0] == 0.5
    largest = Fraction(clip_norm) * units / Fraction(grid)
    assert 2**51 <= largest <= 2**52
    assert grid / clip_norm <= units * 2.0**-51  # as docs/secure_sums.md says
    fixed_point.check_grid(grid, clip_norm, units)


@pytest.mark.parametrize(
    ("clip_norm", "units"), [(math.inf, 5), (1.0, 2**33), (1e-300, 5), (1e308, 100)]
)
def test_a_sum_without_an_exact_grid_is_refused_by_name(clip_norm, units):
    with pytest.raises(ConfigurationError, match=r"runtime.secure_sum=true.*clip norm"):
        fixed_point.grid(clip_norm, units)


def test_a_grid_that_would_overflow_is_refused_by_name():
    fixed_point.check_grid(2.0**-42, 1.0, 1024)
    with pytest.raises(ConfigurationError, match="secure_sum"):
        fixed_point.check_grid(2.0**-43, 1.0, 1024)


@pytest.mark.parametrize(
    "wrong",
    [
        CohortSum(np.full(5, GRID / 2), dict.fromkeys(FIGURES, 0.0), 0.0),
        CohortSum(np.full(5, GRID * 2.0**53), dict.fromkeys(FIGURES, 0.0), 0.0),
        CohortSum(np.full(5, np.nan), dict.fromkeys(FIGURES, 0.0), 0.0),
        CohortSum(np.zeros(4), dict.fromkeys(FIGURES, 0.0), 0.0),
        CohortSum(np.zeros(5), dict.fromkeys(FIGURES, 0.0), None),
        CohortSum(np.zeros(5), {}, 0.0),
        CohortSum(np.zeros(5), dict.fromkeys(FIGURES, 0.0), 0.0, rows=np.zeros((1, 5))),
    ],
    ids=["off the grid", "too large", "NaN", "size", "no bits", "no figures", "rows"],
)
def test_nothing_else_than_what_the_round_asks_for_is_encoded(wrong):
    with pytest.raises(ValueError, match="fixed point"):
        FIXED.encoded(wrong)


def test_coordinates_beyond_any_sum_are_masks_that_did_not_cancel():
    vector = FIXED.encoded(cohort([0] * 5))
    vector[2] = 2**52
    assert FIXED.decoded(vector).total[2] == 2.0**52 * GRID
    for step in (2**52 + 1, 2**63, 2**64 - 2**52 - 1):
        vector[2] = step
        with pytest.raises(ValueError, match="do not cancel"):
            FIXED.decoded(vector)


def test_figures_are_kept_to_their_step_and_cut_before_they_overflow():
    figures = dict(zip(FIGURES, (3.0, 1.0, 2.0, 0.1, 1e-9, 7.0, 1e300), strict=True))
    vectors = [FIXED.encoded(CohortSum(np.zeros(5), figures, 0.0)) for _ in range(3)]
    kept = FIXED.decoded(sum(vectors, np.zeros(FIXED.length, np.uint64))).figures
    for name in FIGURES[:-1]:
        assert kept[name] == pytest.approx(3 * figures[name], abs=3 * 2.0**-21)
    assert 0 < kept["tokens_used"] <= 2.0**42


def test_the_figures_are_those_of_a_node():
    summed = cohort_update.cohort_sum(
        tiny.language_model(),
        tiny.language_model().initial,
        tiny.ragged_units(2),
        clip_norm=1.0,
        local=cohort_update.LocalTraining(),
        engine=EngineSettings(max_tokens=128),
    )
    assert set(summed.figures) == set(FIGURES)
    assert all(metric_kinds.kind(name).value == "simulation_only" for name in FIGURES)
