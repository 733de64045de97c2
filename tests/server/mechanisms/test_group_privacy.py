"""Group Privacy: each of a user's k slots is sampled by its own coin."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError

USER = UserWise(users=40, cohort=8, records_per_user=3, clip_norm=0.7, noise_multiplier=1.3)
SLOT = GroupPrivacy(users=40, cohort=8, records_per_user=3, clip_norm=0.7, noise_multiplier=1.3)


def replayed(number=1):
    return rng.Secrets(replay_seed=0).stream("noise", number)


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


def test_rate_one_takes_every_slot_of_every_user():
    drawn = dataclasses.replace(SLOT, cohort=40).draw(replayed(), 1)
    assert drawn.users.tolist() == [u for u in range(40) for _ in range(3)]
    assert drawn.slots.tolist() == [0, 1, 2] * 40


def test_group_privacy_needs_a_cap_and_user_wise_does_not():
    assert dataclasses.replace(USER, records_per_user=0).sampling_rate == 0.2
    with pytest.raises(ConfigurationError, match="records_per_user=all"):
        dataclasses.replace(SLOT, records_per_user=0)
