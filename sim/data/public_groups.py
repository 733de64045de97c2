"""Puts every user into one of several public groups, by a keyed hash of the user's id.

A user's group depends on their id and the key alone: adding, removing or reordering other users
moves nobody to another group.
"""

from __future__ import annotations

import numpy as np

from userdp.sim.common import rng


def of(user_keys: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """The group of each user, 0 to ``groups - 1``: (users,) int64.

    The hash is splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of the user's stable key and a key
    that is made of ``seed``. It is public: nothing rests on its secrecy, and groups are of nearly
    equal size in expectation (a group is at most ``groups`` 2^-64 likelier than another).

    Args:
        user_keys: (users,) uint64, `userdp.sim.data.population.user_key` of the ids.
        groups: number of groups, at least 1.
        seed: of the configuration; another seed makes other groups.

    Raises:
        ValueError: there is no group.
    """
    if groups < 1:
        raise ValueError(f"Expected {groups=} >= 1.")
    key = rng.generator(seed, "public groups").integers(2**64, dtype=np.uint64)
    return (_mixed(user_keys ^ key) % np.uint64(groups)).astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The output of splitmix64 for states (n,) uint64; arithmetic is modulo 2^64."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
