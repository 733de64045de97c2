"""Epsilon of rounds whose guarantee may fail: docs/concentration.md, step 8."""

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


def satisfies_inequality(epsilon, slack, delta=DELTA, **options):
    """Whether epsilon satisfies the inequality that makes it a claim, with unfailing rounds."""
    left = delta - slack * (1 + math.exp(epsilon))
    return left > 0 and upper(0.0, delta=left, **options) <= epsilon


@pytest.mark.parametrize("accountant", ["pld", "prv", "rdp"])
@pytest.mark.parametrize("failure", [1e-14, 1e-12, 1e-11])
def test_the_claim_solves_the_inequality_and_nothing_much_smaller_does(failure, accountant):
    claim = upper(failure, accountant=accountant)
    assert satisfies_inequality(claim, ROUNDS * failure, accountant=accountant)
    assert not satisfies_inequality(claim * (1 - 1e-4), ROUNDS * failure, accountant=accountant)


def test_the_claim_is_the_root_of_another_solver():
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
    claim = [upper(failure) for failure in failures]
    assert claim == sorted(claim)
    assert claim[1] == pytest.approx(claim[0], rel=1e-4)
    assert math.isfinite(claim[5])
    assert claim[-3:] == [math.inf] * 3
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
    """The exact delta of one Gaussian round that, with probability b, reveals who takes part."""
    b, z, delta = 1e-8, 2.0, 1e-5
    whole = RoundEvent(sampling_rate=1.0, noise_multiplier=z, failure_probability=b)
    claim = accounting.epsilon([(whole, 1)], delta).upper
    gaussian = stats.norm.sf(z * claim - 1 / (2 * z)) - math.exp(claim) * stats.norm.sf(
        z * claim + 1 / (2 * z)
    )
    assert (1 - b) * gaussian + b <= delta
    without = accounting.epsilon([(whole.unfailing(), 1)], delta).upper
    assert claim > without


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 10.0, 699.0, 1e6, math.inf])
def test_the_remaining_delta_is_rounded_down(epsilon):
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


def test_curves_and_budgets_account_for_the_failure():
    curve = accounting.epsilon_curve(event(1e-11), ROUNDS, DELTA)
    assert curve(ROUNDS) == upper(1e-11)
    assert curve(10) >= upper(1e-11, rounds=10)
    fits = accounting.affordable_rounds(event(1e-11), 3.0, DELTA, ROUNDS)
    assert upper(1e-11, rounds=fits) <= 3.0 < upper(1e-11, rounds=fits + 1)


def test_the_ledger_holds_a_failure_probability_only_where_it_is_positive():
    assert RoundEvent.from_dict(event(1e-12).to_dict()) == event(1e-12)
    assert event(0.0).to_dict() == {
        "sampling_rate": 0.1, "noise_multiplier": 1.2, "group_size": 1,
    }  # fmt: skip
    assert RoundEvent.from_dict(event(0.0).to_dict()) == PLAIN
    assert event(1e-12).unfailing() == PLAIN


@pytest.mark.parametrize("failure", [-1e-9, 1.0, 2.0, math.nan, math.inf])
def test_failure_probabilities_out_of_range_are_refused(failure):
    with pytest.raises(ValueError, match="failure_probability"):
        event(failure)


@pytest.mark.parametrize("other", [{"group_size": 2}, {"population": 100, "cohort_cap": 20}])
def test_groups_and_caps_are_refused_with_a_failure_probability(other):
    with pytest.raises(ValueError, match="failure_probability"):
        dataclasses.replace(event(1e-9), **other)


def test_analyses_that_ignore_failures_refuse_the_event():
    failing_event = event(1e-9)
    with pytest.raises(ValueError, match="failure_probability"):
        failing_event.dp_event()
    with pytest.raises(ValueError, match="failure_probability"):
        estimate.estimate([(failing_event, ROUNDS)], DELTA)
    with pytest.raises(ValueError, match="failure_probability"):
        estimate.calibrate(failing_event, ROUNDS, 1.0, DELTA)
    assert "certainty" in hyperparameter_tuning.unavailable(failing_event, "mixture")
