"""Poisson sampling: one independent secret coin per position, at the cost of the cohort; caps."""

from __future__ import annotations

import numpy as np

from userdp.sim.common.rng import SecretStream


def poisson_positions(stream: SecretStream, rate: float, size: int) -> np.ndarray:
    """Ascending positions of heads among ``size`` independent Bernoulli(``rate``) coins.

    Draws the gaps between heads, which are geometric, so a thousand heads among a million coins
    cost a thousand draws.

    Raises:
        ValueError: unless 0 < rate <= 1.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"Expected 0 < {rate=} <= 1.")
    if rate == 1:
        return np.arange(size)
    heads: list[np.ndarray] = []
    last = -1
    while last < size:
        gaps = np.log(stream.uniform(int(1.2 * rate * size) + 16)) / np.log1p(-rate)
        found = last + np.cumsum(np.minimum(np.floor(gaps), size) + 1).astype(np.int64)
        heads.append(found)
        last = int(found[-1])
    positions = np.concatenate(heads)
    return positions[positions < size]


def random_subset(stream: SecretStream, positions: np.ndarray, cap: int) -> np.ndarray:
    """``positions`` if there are at most ``cap``, else a uniformly random ``cap`` of them.

    Every position draws a secret key and the smallest keys stay, in ascending order of position.
    """
    if len(positions) <= cap:
        return positions
    kept = np.argsort(stream.uniform(len(positions)), kind="stable")[:cap]
    return positions[np.sort(kept)]
