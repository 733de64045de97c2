"""Poisson sampling of positions with secret coins, and random subsets for capped cohorts.

Both laws are exact: a coin shows heads with probability ``rate``, the float64 that the event names,
and all subsets are equally probable. The cost grows with the cohort, not with the population.
"""

from __future__ import annotations

import numpy as np

from userdp.sim.common import exact_draws
from userdp.sim.common.rng import SecretStream


def poisson_positions(stream: SecretStream, rate: float, size: int) -> np.ndarray:
    """Ascending positions of heads among ``size`` independent Bernoulli(``rate``) coins.

    Draws the gaps between heads, which are geometric, so a thousand heads among a million coins
    cost about a thousand draws.

    Returns:
        (heads,) int64.

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
        count = int(1.2 * rate * size) + 16
        block = last + np.cumsum(exact_draws.geometric_gaps(stream, count, rate, size) + 1)
        heads.append(block)
        last = int(block[-1])
    positions = np.concatenate(heads)
    return positions[positions < size]


def random_subset(stream: SecretStream, positions: np.ndarray, cap: int) -> np.ndarray:
    """All ``positions`` (n,), ascending, or a uniformly random subset of size ``cap`` if n > cap.

    Every position draws a secret key of 64 bits, and all draw 64 more as long as two keys are
    equal. The positions with the smallest keys stay, in ascending order: (min(n, cap),) int64.
    """
    if len(positions) <= cap:
        return positions
    keys = stream.words(len(positions))[None]
    while len(np.unique(keys, axis=1).T) < len(positions):
        keys = np.concatenate([keys, stream.words(len(positions))[None]])
    chosen = np.lexsort(keys[::-1])[:cap]  # by the first word, then the second
    return positions[np.sort(chosen)]
