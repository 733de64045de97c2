"""User-wise cohorts with a cap: no round exceeds it, and an emptied user keeps a place."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from helpers import tiny
from userdp.server.accounting.pld import truncated_poisson
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng

USER = UserWise(
    users=40, cohort=10, records_per_user=2, clip_norm=0.02, noise_multiplier=1.3, cohort_max=8
)


def stream(number=1):
    return rng.Secrets(replay_seed=3).stream("cohort", number)


def test_no_round_has_more_users_than_the_cap_and_each_takes_part_at_the_declared_rate():
    counts, rounds = np.zeros(40), 4000
    for number in range(rounds):
        users = USER.draw(stream(number), number).users
        assert len(users) <= 8
        counts[users] += 1
    rate = truncated_poisson.inclusion_rate(USER.event())
    assert 0.15 < rate < 0.2  # fewer than the coins' 0.25
    spread = ((counts - rounds * rate) ** 2).sum() / (rounds * rate * (1 - rate))
    assert 1e-4 < stats.chi2.sf(spread, 40) < 1 - 1e-4
    assert abs(counts.sum() - rounds * 40 * rate) < 5 * 2 * math.sqrt(rounds)


def one_round(folder, population, seed):
    """Users of the cohort, and the sum before noise."""
    folder.mkdir()
    run = tiny.federation(folder, USER, population, replay_seed=seed)
    run.run()
    [message] = run.grid.sent
    return message.content["assignment"]["users"], run.total


def test_an_emptied_user_keeps_the_place_and_moves_the_sum_by_at_most_the_clip_norm(tmp_path):
    """Zero-out neighbours: the same cohorts, of which one member has nothing to say."""
    taking_part, people = 0, tiny.people(40)
    for seed in range(12):
        cohort, whole = one_round(tmp_path / f"whole{seed}", people, seed)
        again, emptied = one_round(tmp_path / f"emptied{seed}", people.emptied(7), seed)
        assert cohort == again
        moved = np.linalg.norm(whole - emptied)
        assert moved <= USER.clip_norm * (1 + 1e-5)
        assert (moved > 0.9 * USER.clip_norm) == (7 in cohort)
        taking_part += 7 in cohort
    assert 0 < taking_part < 12
