"""Parameters of the concentration test: threshold, failure probability, defaults, refusals."""

from __future__ import annotations

import dataclasses
import math

import pytest
from scipy import stats

from userdp.server import accounting
from userdp.server.accounting import RoundEvent
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.sim.common.errors import ConfigurationError

PUBLIC = {"users": 200, "cohort": 100, "records_per_user": 2, "clip_norm": 0.5}
MECHANISM = Concentrated(
    noise_multiplier=0.8,
    tau=0.02,
    min_weight=30,
    test_share=0.3,
    failure_probability=1e-4,
    **PUBLIC,
)


def test_a_tiny_failure_probability_is_not_taken_for_more_than_the_noise_resolves():
    """Float noise is not the Gaussian to the last bit: 2^-52 of a tail is not relied on."""
    tiny_failure = dataclasses.replace(MECHANISM, failure_probability=2.0**-52)
    assert tiny_failure.threshold == math.inf
    some = dataclasses.replace(MECHANISM, failure_probability=1e-14)
    assert stats.norm.sf(some.quantile) < 1e-14 - 2.0**-53


def test_the_event_is_that_of_a_gaussian_that_may_fail():
    assert MECHANISM.event() == RoundEvent(
        sampling_rate=0.5, noise_multiplier=0.8, failure_probability=1e-4
    )


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_all_failures_together_take_a_hundredth_of_delta(epsilon):
    mechanism = MECHANISM.for_run(rounds=20, delta=1e-5, epsilon=epsilon)
    assert 20 * mechanism.failure_probability * (1 + math.exp(epsilon)) == pytest.approx(1e-7)


def test_without_a_target_epsilon_is_what_the_noise_implies():
    mechanism = MECHANISM.for_run(rounds=20, delta=1e-5, epsilon=None)
    spent = accounting.epsilon([(mechanism.event(), 20)], 1e-5).upper
    plain = accounting.epsilon([(mechanism.event().unfailing(), 20)], 0.99e-5).upper
    assert spent == pytest.approx(plain, rel=1e-4)
    assert 20 * mechanism.failure_probability * (1 + math.exp(plain)) == pytest.approx(1e-7)


def test_noise_that_implies_no_epsilon_leaves_no_room_for_a_test():
    loud = dataclasses.replace(MECHANISM, noise_multiplier=1e-3)
    mechanism = loud.for_run(rounds=20, delta=1e-5, epsilon=None)
    with pytest.raises(ConfigurationError, match="finer than noise"):
        mechanism.remarks()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *(({"tau": value}, "strategy.tau=") for value in (0.0, -1.0, 1e-6, math.inf, math.nan)),
        *(({"min_weight": v}, "strategy.min_weight=") for v in (0.0, 3.9, -1, math.inf, math.nan)),
        ({"min_weight": None, "cohort": 7.9}, "strategy.min_weight=3.95"),
        *(({"test_share": v}, "strategy.test_share=") for v in (0.0, 1.0, -0.1, math.nan)),
        ({"test_statistic": "mean"}, "strategy.test_statistic=mean: choose one of weight, pairs"),
        ({"on_failure": "stop"}, "strategy.on_failure=stop: choose one of fallback, halt"),
        ({"cohort_max": 120}, "strategy.cohort_max=120"),
    ],
    ids=str,
)
def test_what_is_no_mechanism_is_refused_in_one_line(wrong, message):
    with pytest.raises(ConfigurationError, match=message) as refused:
        dataclasses.replace(MECHANISM, **wrong)
    assert "\n" not in str(refused.value)


def test_a_cohort_that_cannot_pass_is_refused_with_the_mend():
    with pytest.raises(ConfigurationError, match=r"min_weight=95.*cohort=100.*test_share"):
        dataclasses.replace(MECHANISM, min_weight=95).remarks()


def test_a_radius_that_does_not_pay_is_remarked_and_one_that_does_is_not():
    [remark] = MECHANISM.remarks()
    assert "strategy.tau=0.02: a passed test adds 2.31 times" in remark
    pays = float(remark.partition("below tau=")[2].partition(" ")[0])
    assert dataclasses.replace(MECHANISM, tau=pays * 0.999).remarks() == []
    assert dataclasses.replace(MECHANISM, tau=pays * 1.01).remarks()


def test_defaults_are_a_fiftieth_of_c_and_half_of_the_cohort():
    usual = Concentrated(noise_multiplier=1.0, **PUBLIC)
    assert (usual.radius, usual.least_weight) == (0.01, 50)
    assert usual.mean_sensitivity < 0.5 / 100
