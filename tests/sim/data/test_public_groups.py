"""A user's public group is a function of the user's id, the seed and the number of groups alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from userdp.sim.common import rng
from userdp.sim.data import public_groups
from userdp.sim.data.population import user_key

KEYS = np.array([user_key(f"user {n}") for n in range(6000)], np.uint64)


def splitmix64(state: int) -> int:
    """The reference algorithm, in whole numbers of any size."""
    word = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)


def test_the_hash_is_splitmix64_whose_first_outputs_are_known():
    outputs = public_groups._mixed(np.array([1234567], np.uint64))
    assert outputs.tolist() == [6457827717110365317]  # the published first output of this seed
    key = int(rng.generator(3, "public groups").integers(2**64, dtype=np.uint64))
    expected = [splitmix64(int(k) ^ key) % 7 for k in KEYS[:200]]
    assert public_groups.of(KEYS[:200], 7, seed=3).tolist() == expected


def test_nobody_moves_when_others_come_go_or_change_places():
    everybody = dict(zip(KEYS.tolist(), public_groups.of(KEYS, 9, seed=0).tolist(), strict=True))
    for others in (np.delete(KEYS, 17), KEYS[::-1], KEYS[:1], np.append(KEYS, np.uint64(5))):
        groups = public_groups.of(others, 9, seed=0)
        known = zip(others.tolist(), groups.tolist(), strict=True)
        assert all(everybody.get(key, group) == group for key, group in known)


def test_groups_are_even_and_another_seed_makes_independent_ones():
    first, second = (public_groups.of(KEYS, 9, seed) for seed in (0, 1))
    assert stats.chisquare(np.bincount(first, minlength=9)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(first % 8, minlength=9) + 1).pvalue < 1e-3  # a skew shows
    together = np.bincount(9 * first + second, minlength=81)
    assert stats.chisquare(together).pvalue > 1e-3
    with pytest.raises(ValueError, match="groups=0"):
        public_groups.of(KEYS, 0, seed=0)
