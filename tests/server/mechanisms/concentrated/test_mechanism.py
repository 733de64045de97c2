"""The concentration mechanism: noise of test and update, its branches and queries."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.concentrated.statistic import measure
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.tracking import metric_kinds

PUBLIC = {"users": 200, "cohort": 100, "records_per_user": 2, "clip_norm": 0.5}
MECHANISM = Concentrated(
    noise_multiplier=0.8,
    tau=0.02,
    min_weight=30,
    test_share=0.3,
    failure_probability=1e-4,
    **PUBLIC,
)
STATISTICS = pytest.mark.parametrize("statistic", ["weight", "pairs"])
WRONG_SCALES = (2 / 3, 3 / 2)


class Silent:
    """A stream whose normals are all zero."""

    def words(self, size):
        return np.full(size, 2**64 - 1, np.uint64)


def alike(count, size=3):
    """Rows that agree: W and t are their number."""
    return np.full((count, size), 0.1 / math.sqrt(size))


def scattered(count, size=64):
    """Rows of which no two lie within 2 tau: W is 0, t is below."""
    rows = np.zeros((count, size))
    np.fill_diagonal(rows, 0.5)
    return rows


def cohort(rows):
    return CohortSum(rows.sum(0), rows=rows)


def released(mechanism, rows, stream=None):
    return mechanism.release(cohort(rows), stream or rng.OsEntropy(), 1)


def check_scale(noise, std):
    assert stats.kstest(noise, "norm", args=(0, std)).pvalue > 1e-6
    for wrong in WRONG_SCALES:
        assert stats.kstest(noise, "norm", args=(0, wrong * std)).pvalue < 1e-6


# --- noise ----------------------------------------------------------------------------------------


def test_noise_on_the_mean_of_a_passed_test_is_scaled_to_tau_and_no_other():
    rows = alike(90, size=20_000)
    found = released(MECHANISM, rows)
    std = 0.8 / math.sqrt(0.7) * (52 / 3) * 0.02 / 30
    assert found.released["test_passed"] == 1
    assert found.noise_std == pytest.approx(std, rel=1e-12)
    check_scale(found.mean - rows[0], std)


def test_noise_of_a_failed_test_is_user_wise_at_the_updates_share():
    rows = scattered(40, size=20_000)
    found = released(MECHANISM, rows)
    std = 0.8 / math.sqrt(0.7) * 0.5 / 100
    assert found.released["test_passed"] == 0
    assert found.noise_std == pytest.approx(std, rel=1e-12)
    check_scale(found.mean - rows.sum(0) / 100, std)


@STATISTICS
@pytest.mark.parametrize("rows", [alike(90), scattered(40), alike(0)], ids=["pass", "fail", "none"])
def test_noise_on_the_statistic_is_scaled_to_its_sensitivity_and_no_other(statistic, rows):
    mechanism = dataclasses.replace(MECHANISM, test_statistic=statistic)
    true = measure(rows, 0.02).statistic(statistic)
    seen = [released(mechanism, rows).released["test_statistic"] for _ in range(3000)]
    sensitivity = {"weight": 4.0, "pairs": 3.0}[statistic]
    check_scale(np.array(seen) - true, 0.8 / math.sqrt(0.3) * sensitivity)


def test_noise_of_test_and_update_is_drawn_apart():
    found = [released(MECHANISM, alike(90)) for _ in range(3000)]
    statistics = np.array([f.released["test_statistic"] for f in found])
    means = np.array([f.mean for f in found])
    for column in means.T:
        assert abs(np.corrcoef(statistics, column)[0, 1]) < 5 / math.sqrt(3000)


@STATISTICS
def test_a_weight_just_short_of_the_least_passes_with_the_failure_probability_and_no_other(
    statistic,
):
    """The worst case of step 6: the statistic equals min_weight."""
    mechanism = dataclasses.replace(
        MECHANISM, test_statistic=statistic, failure_probability=0.05, min_weight=30
    )
    passed = sum(released(mechanism, alike(30)).released["test_passed"] for _ in range(6000))
    assert stats.binomtest(int(passed), 6000, 0.05).pvalue > 1e-6
    for wrong in WRONG_SCALES:  # of the test's noise
        rate = stats.norm.sf(stats.norm.isf(0.05) / wrong)
        assert stats.binomtest(int(passed), 6000, rate).pvalue < 1e-6


# --- branches -------------------------------------------------------------------------------------


def test_the_test_passes_from_its_threshold_on():
    reached = math.ceil(MECHANISM.threshold)
    assert MECHANISM.threshold == pytest.approx(
        30 + 4 * (0.8 / math.sqrt(0.3)) * stats.norm.isf(1e-4), rel=1e-9
    )
    assert released(MECHANISM, alike(reached), Silent()).released["test_passed"] == 1
    assert released(MECHANISM, alike(reached - 1), Silent()).released["test_passed"] == 0


def test_without_a_failure_probability_no_test_ever_passes():
    never = dataclasses.replace(MECHANISM, failure_probability=0.0)
    assert never.threshold == math.inf
    assert released(never, alike(100)).released["test_passed"] == 0


@pytest.mark.parametrize("rows", [alike(90), scattered(40), alike(0)], ids=["pass", "fail", "none"])
def test_with_a_weight_that_nobody_reaches_it_is_user_wise_at_the_updates_multiplier(rows):
    mechanism = dataclasses.replace(MECHANISM, min_weight=1e9)
    plain = UserWise(noise_multiplier=mechanism.update_multiplier, **PUBLIC)
    ours, theirs = (rng.Secrets(replay_seed=1).stream("noise", 1) for _ in range(2))
    rng.standard_normal(theirs, 1)  # of the test
    found = mechanism.release(cohort(rows), ours, 1)
    wanted = plain.release(CohortSum(rows.sum(0)), theirs, 1)
    np.testing.assert_array_equal(found.mean, wanted.mean)
    assert found.noise_std == wanted.noise_std
    assert mechanism.noise_std == plain.noise_std


def test_the_mean_of_a_passed_test_leaves_outliers_out():
    rows = np.concatenate([alike(80), -4 * alike(10)])
    found = released(MECHANISM, rows, Silent())
    np.testing.assert_allclose(found.mean, rows[0], rtol=1e-12)
    assert found.simulation_only["kept_fraction"] == pytest.approx(80 / 90)
    assert found.simulation_only["concentrated_weight"] == 80


def test_a_test_that_passes_by_noise_alone_releases_noise_around_zero():
    """No row has weight, so that there is no mean: the failure that delta pays for."""
    lucky = dataclasses.replace(MECHANISM, failure_probability=0.999_999_99, min_weight=4)
    found = released(lucky, alike(0), Silent())
    assert found.released["test_passed"] == 1
    assert found.mean.tolist() == [0.0, 0.0, 0.0]


def test_a_failed_test_that_halts_releases_nothing_more():
    found = released(dataclasses.replace(MECHANISM, on_failure="halt"), scattered(40))
    assert found.halted
    assert found.mean.tolist() == [0.0] * 64
    assert not released(dataclasses.replace(MECHANISM, on_failure="halt"), alike(90)).halted


def test_without_rows_it_refuses():
    with pytest.raises(ValueError, match="rows"):
        MECHANISM.release(CohortSum(np.zeros(3)), rng.OsEntropy(), 1)


# --- account --------------------------------------------------------------------------------------


@STATISTICS
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.99])
def test_queries_combine_to_z_and_say_what_is_drawn(statistic, share):
    mechanism = dataclasses.replace(
        MECHANISM, test_statistic=statistic, test_share=share, failure_probability=0.3
    )
    test, update = mechanism.queries()
    assert test.precision + update.precision == pytest.approx(0.8**-2, rel=1e-12)
    assert test.sensitivity == {"weight": 4, "pairs": 3}[statistic]
    passed = released(mechanism, alike(200), Silent()).noise_std / mechanism.mean_sensitivity
    failed = released(mechanism, scattered(5), Silent()).noise_std / (0.5 / 100)
    assert passed == pytest.approx(update.noise_std / update.sensitivity, rel=1e-12)
    assert failed == pytest.approx(update.noise_std / update.sensitivity, rel=1e-12)


def test_every_figure_has_its_kind():
    found = released(MECHANISM, alike(90))
    kinds = {metric_kinds.kind(name) for name in [*found.released, *MECHANISM.summary()]}
    assert kinds == {metric_kinds.Kind.RELEASED}
    assert {metric_kinds.kind(n) for n in found.simulation_only} == {
        metric_kinds.Kind.SIMULATION_ONLY
    }


def test_without_noise_the_test_has_no_margin():
    """What is logged as simulation_only: does W reach min_weight?"""
    for count, wanted in ((29, 0), (30, 1), (90, 1)):
        true = released(MECHANISM, alike(count)).simulation_only
        assert (true["true_test_statistic"], true["true_test_passed"]) == (count, wanted)
