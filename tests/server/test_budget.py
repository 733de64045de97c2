"""A run's budget: rounds within the target and no more, and epsilon after each of them."""

from __future__ import annotations

import itertools
import math

import pytest

from userdp.server import accounting, budget
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise

DELTA, ROUNDS = 1e-5, 40
OPTIONS = {"accountant": "pld", "group_bound": "mixture"}
PUBLIC = {"users": 500, "cohort": 50, "records_per_user": 2, "clip_norm": 0.5}
USER = UserWise(noise_multiplier=1.5, **PUBLIC)
SLOT = GroupPrivacy(noise_multiplier=2.5, **PUBLIC)
GROUPS = MatrixFactorization(noise_multiplier=3.0, rounds=ROUNDS, **PUBLIC)  # an event in 10 rounds
MECHANISMS = pytest.mark.parametrize(
    "mechanism", [USER, SLOT, GROUPS], ids=["user", "slot", "groups"]
)


def epsilon_of(mechanism, rounds):
    """Certified upper epsilon of so many rounds."""
    spent = [(mechanism.event(), mechanism.event_count(rounds))]
    return accounting.epsilon(spent, DELTA, **OPTIONS).upper


def certified(mechanism, target):
    epsilon = epsilon_of(mechanism, ROUNDS) if mechanism.private else math.inf
    return budget.certified(
        mechanism, ROUNDS, DELTA, epsilon=epsilon, target=target, options=OPTIONS
    )


@MECHANISMS
@pytest.mark.parametrize("share", [0.5, 0.8, 0.999])
def test_the_rounds_stay_within_the_target_and_one_more_event_does_not(mechanism, share):
    target = share * epsilon_of(mechanism, ROUNDS)
    limits = certified(mechanism, target)
    assert 0 < limits.rounds < ROUNDS
    assert epsilon_of(mechanism, limits.rounds) <= target
    assert epsilon_of(mechanism, limits.rounds + mechanism.rounds_per_event) > target
    # The curve is exact at the planned rounds; before, it may count up to 13 % more events.
    events = math.ceil(1.13 * mechanism.event_count(limits.rounds))
    shown = limits.epsilon_after(limits.rounds)
    assert epsilon_of(mechanism, limits.rounds) <= shown
    assert shown <= epsilon_of(mechanism, events * mechanism.rounds_per_event)


@MECHANISMS
@pytest.mark.parametrize("margin", [None, 1.0, 2.0])
def test_a_target_that_is_met_allows_all_rounds(mechanism, margin):
    target = None if margin is None else margin * epsilon_of(mechanism, ROUNDS)
    assert certified(mechanism, target).rounds == ROUNDS


def test_a_target_below_one_round_allows_none():
    assert certified(USER, 1e-3).rounds == 0


@MECHANISMS
def test_epsilon_starts_at_zero_never_falls_and_ends_at_that_of_all_rounds(mechanism):
    after = certified(mechanism, None).epsilon_after
    values = [after(rounds) for rounds in range(ROUNDS + 1)]
    assert values[0] == 0
    assert all(earlier <= later for earlier, later in itertools.pairwise(values))
    assert values[1] > 0
    assert values[-1] == pytest.approx(epsilon_of(mechanism, ROUNDS), rel=1e-6)


def test_rounds_of_one_event_cost_the_same():
    after = certified(GROUPS, None).epsilon_after
    assert after(1) == after(10) < after(11) == after(20)


def test_a_run_without_noise_has_all_rounds_and_an_infinite_epsilon():
    limits = certified(NonPrivate(users=500, cohort=50, records_per_user=2), 1.0)
    assert limits.rounds == ROUNDS
    assert limits.epsilon_after(1) == math.inf


def test_an_accountant_that_cannot_price_the_event_is_refused():
    with pytest.raises(ValueError, match="cohort_cap"):
        budget.certified(
            UserWise(noise_multiplier=1.5, cohort_max=60, **PUBLIC),
            ROUNDS,
            DELTA,
            epsilon=5.0,
            target=None,
            options={**OPTIONS, "accountant": "rdp"},
        )
