"""Epsilon of rounds whose guarantee fails now and then: docs/concentration.md, step 8."""

from __future__ import annotations

import dataclasses
import math

import pytest
from scipy import optimize, stats

from userdp.server import accounting
from userdp.server.accounting import RoundEvent, failure_probability, hyperparameter_tuning
from userdp.server.accounting.edgeworth import estimate

PLAIN = RoundEvent(sampling_rate=0.1, noise_multiplier=1.2)
ROUNDS, DELTA = 50, 1e-6


def event(failure):
    return dataclasses.replace(PLAIN, failure_probability=failure)


def upper(failure, rounds=ROUNDS, delta=DELTA, **options):
    return accounting.epsilon([(event(failure), rounds)], delta, **options).upper


def inequality(epsilon, slack, delta=DELTA, **options):
    """Whether epsilon satisfies what makes it a claim, with rounds that never fail."""
    left = delta - slack * (1 + math.exp(epsilon))
    return left > 0 and upper(0.0, delta=left, **options) <= epsilon


@pytest.mark.parametrize("accountant", ["pld", "prv", "rdp"])
@pytest.mark.parametrize("failure", [1e-14, 1e-12, 1e-11])
def test_the_claim_solves_the_inequality_and_nothing_much_smaller_does(failure, accountant):
    claimed = upper(failure, accountant=accountant)
    assert inequality(claimed, ROUNDS * failure, accountant=accountant)
    assert not inequality(claimed * (1 - 1e-4), ROUNDS * failure, accountant=accountant)


def test_it_is_the_root_that_another_solver_finds():
    slack = ROUNDS * 1e-10

    def excess(epsilon):
        return upper(0.0, delta=DELTA - slack * (1 + math.exp(epsilon))) - epsilon

    root = optimize.brentq(excess, 3.0, 5.0, xtol=1e-6)
    assert upper(1e-10) == pytest.approx(root, rel=1e-4)


@pytest.mark.parametrize("accountant", ["pld", "prv", "rdp"])
def test_without_failure_nothing_changes(accountant):
    whole = accounting.epsilon([(PLAIN, ROUNDS)], DELTA, accountant=accountant)
    assert accounting.epsilon([(event(0.0), ROUNDS)], DELTA, accountant=accountant) == whole
    assert whole.lower > 0


def test_epsilon_grows_with_the_failure_until_there_is_none():
    failures = [0.0, 1e-16, 1e-13, 1e-12, 1e-11, 1e-10, 2e-10, 1e-9, 1e-6, 0.5]
    claimed = [upper(failure) for failure in failures]
    assert claimed == sorted(claimed)
    assert claimed[1] == pytest.approx(claimed[0], rel=1e-4)
    assert math.isfinite(claimed[5])
    assert claimed[-3:] == [math.inf] * 3
    assert all(
        accounting.epsilon([(event(failure), ROUNDS)], DELTA).lower == 0 for failure in failures[1:]
    )


def test_epsilon_grows_with_the_rounds_and_falls_with_delta():
    assert upper(1e-12, rounds=20) < upper(1e-12, rounds=50) < upper(1e-12, rounds=80)
    assert upper(1e-12, delta=1e-5) < upper(1e-12) < upper(1e-12, delta=1e-7)


def test_the_slack_of_all_events_adds_up():
    """Half of the rounds failing twice as often costs what all failing alike costs."""
    halves = [(event(2e-11), ROUNDS // 2), (PLAIN, ROUNDS // 2)]
    assert accounting.epsilon(halves, DELTA).upper == pytest.approx(upper(1e-11), rel=1e-9)


def test_a_mechanism_that_does_fail_keeps_the_claim():
    """One Gaussian round that, with probability b, tells who is there: its exact delta."""
    b, z, delta = 1e-8, 2.0, 1e-5
    whole = RoundEvent(sampling_rate=1.0, noise_multiplier=z, failure_probability=b)
    claimed = accounting.epsilon([(whole, 1)], delta).upper
    gaussian = stats.norm.sf(z * claimed - 1 / (2 * z)) - math.exp(claimed) * stats.norm.sf(
        z * claimed + 1 / (2 * z)
    )
    assert (1 - b) * gaussian + b <= delta
    without = accounting.epsilon([(whole.unfailing(), 1)], delta).upper
    assert claimed > without


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 10.0, 699.0, 1e6, math.inf])
def test_what_is_left_of_delta_is_rounded_down(epsilon):
    left = failure_probability.remaining_delta(1e-6, 1e-12, epsilon)
    assert left == -math.inf or left < 1e-6 - 1e-12 * (1 + math.exp(epsilon))


@pytest.mark.parametrize("target", [0.5, 3.0, 8.0])
def test_calibration_ends_on_the_private_side(target):
    failure = 0.01 * DELTA / ROUNDS / (1 + math.exp(target))
    z = accounting.calibrate(event(failure), ROUNDS, target, DELTA)
    reached = accounting.epsilon(
        [(dataclasses.replace(event(failure), noise_multiplier=z), ROUNDS)], DELTA
    )
    assert target * 0.99 < reached.upper <= target
    without = accounting.calibrate(PLAIN, ROUNDS, target, DELTA)
    assert without <= z * 1.0005 < without * 1.01


def test_a_curve_over_rounds_and_a_budget_know_the_failure():
    curve = accounting.epsilon_curve(event(1e-11), ROUNDS, DELTA)
    assert curve(ROUNDS) == upper(1e-11)
    assert curve(10) >= upper(1e-11, rounds=10)
    fits = accounting.affordable_rounds(event(1e-11), 3.0, DELTA, ROUNDS)
    assert upper(1e-11, rounds=fits) <= 3.0 < upper(1e-11, rounds=fits + 1)


def test_the_ledger_keeps_it_only_where_there_is_one():
    assert RoundEvent.from_dict(event(1e-12).to_dict()) == event(1e-12)
    assert event(0.0).to_dict() == {
        "sampling_rate": 0.1, "noise_multiplier": 1.2, "group_size": 1,
    }  # fmt: skip
    assert RoundEvent.from_dict(event(0.0).to_dict()) == PLAIN
    assert event(1e-12).unfailing() == PLAIN


@pytest.mark.parametrize("failure", [-1e-9, 1.0, 2.0, math.nan, math.inf])
def test_what_is_no_probability_is_refused(failure):
    with pytest.raises(ValueError, match="failure_probability"):
        event(failure)


@pytest.mark.parametrize("other", [{"group_size": 2}, {"population": 100, "cohort_cap": 20}])
def test_rounds_for_which_it_is_not_proved_are_refused(other):
    with pytest.raises(ValueError, match="failure_probability"):
        dataclasses.replace(event(1e-9), **other)


def test_whoever_does_not_know_of_it_refuses():
    failing_event = event(1e-9)
    with pytest.raises(ValueError, match="failure_probability"):
        failing_event.dp_event()
    with pytest.raises(ValueError, match="failure_probability"):
        estimate.estimate([(failing_event, ROUNDS)], DELTA)
    with pytest.raises(ValueError, match="failure_probability"):
        estimate.calibrate(failing_event, ROUNDS, 1.0, DELTA)
    assert "certainty" in hyperparameter_tuning.unavailable(failing_event, "mixture")
