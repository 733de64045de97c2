"""One round's mechanism: sampling, sensitivity, noise, denominator and event agree."""

from __future__ import annotations

import dataclasses
import inspect
import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum

USER = UserWise(users=40, cohort=8, records_per_user=3, clip_norm=0.7, noise_multiplier=1.3)
SLOT = GroupPrivacy(users=40, cohort=8, records_per_user=3, clip_norm=0.7, noise_multiplier=1.3)
NONE = NonPrivate(users=40, cohort=8, records_per_user=3)
SIZE = 20_000


def replayed(number=1):
    return rng.Secrets(replay_seed=0).stream("noise", number)


class Silent:
    """A stream whose normals are all zero."""

    def uniform(self, size):
        return np.full(size, 0.5)


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
@pytest.mark.parametrize("total", [0.0, 17.0], ids=["empty", "filled"])
def test_noise_on_the_mean_has_std_z_c_over_m_and_no_other(mechanism, total):
    released = mechanism.release(CohortSum(np.full(SIZE, total)), rng.OsEntropy(), 1).mean
    m = 8 if mechanism is USER else 24
    noise = released - total / m
    std = 1.3 * 0.7 / m
    assert released.dtype == np.float64
    assert len(np.unique(released)) == SIZE
    assert stats.kstest(noise, "norm", args=(0, std)).pvalue > 1e-6
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(noise, "norm", args=(0, wrong * std)).pvalue < 1e-6


@pytest.mark.parametrize(("mechanism", "m"), [(USER, 8), (SLOT, 24), (NONE, 8)])
def test_the_denominator_is_the_public_m(mechanism, m):
    total = np.arange(5.0)
    assert mechanism.expected_units == m
    np.testing.assert_allclose(
        mechanism.release(CohortSum(total), Silent(), 1).mean, total / m, rtol=1e-15
    )


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_one_query_whose_noise_over_sensitivity_is_the_events_multiplier(mechanism):
    [query] = mechanism.queries()
    event = mechanism.event()
    assert query.sensitivity == 0.7
    assert query.noise_std / query.sensitivity == pytest.approx(event.noise_multiplier)
    assert event.sampling_rate == 8 / 40
    assert event.group_size == (1 if mechanism is USER else 3)
    assert mechanism.ledger_event() == event.to_dict()


def hits_of_users(draw, rounds=3000):
    counts = np.zeros((rounds, 40), int)
    for number in range(rounds):
        np.add.at(counts[number], draw(number).users, 1)
    return counts


def binomial_p_value(counts, k, q):
    seen = np.bincount(counts.ravel(), minlength=k + 1)
    return stats.chisquare(seen, stats.binom.pmf(np.arange(k + 1), k, q) * counts.size).pvalue


def test_a_users_hits_are_binomial_in_k_and_q():
    counts = hits_of_users(lambda number: SLOT.draw(replayed(number), number))
    assert binomial_p_value(counts, 3, 0.2) > 1e-3


def test_a_loader_that_takes_all_slots_of_a_sampled_user_is_not_binomial():
    def by_user(number):
        users = USER.draw(replayed(number), number).users
        return dataclasses.replace(USER.draw(replayed(number), number), users=np.repeat(users, 3))

    assert binomial_p_value(hits_of_users(by_user), 3, 0.2) < 1e-6


@pytest.mark.parametrize("rate", [2 / 3, 3 / 2])
def test_hits_at_another_rate_are_not_binomial_in_q(rate):
    other = dataclasses.replace(SLOT, cohort=8 * rate)
    counts = hits_of_users(lambda number: other.draw(replayed(number), number))
    assert binomial_p_value(counts, 3, 0.2) < 1e-6


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_a_unit_enters_a_round_once_and_positions_are_the_declared_ones(mechanism):
    seen = set()
    for number in range(300):
        drawn = mechanism.draw(replayed(number), number)
        slots = drawn.slots if mechanism is SLOT else np.zeros(len(drawn.users), np.int64)
        units = list(zip(drawn.users.tolist(), slots.tolist(), strict=True))
        assert len(units) == len(set(units))
        assert units == sorted(units)
        seen.update(units)
    assert seen == {(u, s) for u in range(40) for s in range(3 if mechanism is SLOT else 1)}


def test_rate_one_takes_every_slot_of_every_user():
    drawn = dataclasses.replace(SLOT, cohort=40).draw(replayed(), 1)
    assert drawn.users.tolist() == [u for u in range(40) for _ in range(3)]
    assert drawn.slots.tolist() == [0, 1, 2] * 40


@pytest.mark.parametrize("mechanism", [USER, SLOT, NONE], ids=["user", "slot", "none"])
def test_a_mechanism_is_made_of_public_numbers_alone(mechanism):
    assert {type(value) for value in vars(mechanism).values()} <= {int, float, type(None)}
    assert set(inspect.signature(type(mechanism).draw).parameters) == {"self", "stream", "number"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"users": 0}, "privacy.users=0"),
        ({"cohort": 41}, "cohort=41"),
        ({"cohort": 0}, "cohort=0"),
        ({"cohort": math.nan}, "cohort=nan"),
        ({"records_per_user": -1}, "records_per_user=-1"),
        ({"clip_norm": 0.0}, "clip_norm=0"),
        ({"clip_norm": math.nan}, "clip_norm=nan"),
        ({"clip_norm": math.inf}, "finite"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1"),
        ({"noise_multiplier": math.inf}, "finite"),
        ({"noise_multiplier": math.nan}, "finite"),
        ({"noise_multiplier": 1e-9}, "noise_multiplier=1e-09"),
    ],
)
@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_what_is_no_private_mechanism_is_refused(mechanism, change, told):
    with pytest.raises(ConfigurationError, match=told):
        dataclasses.replace(mechanism, **change)


def test_group_privacy_needs_a_cap_and_user_wise_does_not():
    assert dataclasses.replace(USER, records_per_user=0).sampling_rate == 0.2
    with pytest.raises(ConfigurationError, match="records_per_user=all"):
        dataclasses.replace(SLOT, records_per_user=0)


def test_the_least_noise_that_is_accepted_is_far_above_the_resolution_of_a_full_sum():
    least = dataclasses.replace(USER, noise_multiplier=8 * 2.0**-31)
    full = np.full(SIZE, 40 * least.clip_norm)  # every user at the clip, along every axis
    noise = least.release(CohortSum(full), replayed(), 1).mean * 8 - full
    assert len(np.unique(noise)) > 0.99 * SIZE
    assert np.std(noise) == pytest.approx(least.noise_std, rel=0.03)


def test_without_noise_there_is_no_event_and_the_class_says_so():
    assert not NONE.private
    assert USER.private
    assert NONE.noise_std == 0.0
    assert NONE.clip_norm == math.inf
    assert NONE.ledger_event()["noise_multiplier"] == 0.0
    with pytest.raises(ValueError, match="no privacy event"):
        NONE.event()


def test_global_seeds_do_not_replay_the_noise():
    def released():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return USER.release(CohortSum(np.zeros(8)), rng.Secrets().stream("noise", 1), 1).mean

    assert not np.isin(released(), released()).any()


def test_noise_of_different_rounds_is_uncorrelated():
    first, second = (
        USER.release(CohortSum(np.zeros(SIZE)), replayed(number), number).mean for number in (1, 2)
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(SIZE)
