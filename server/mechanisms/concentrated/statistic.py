"""How concentrated the rows of a cohort are, and their mean without outliers; no noise, no secrets.

In the manner of Asi and Liu (arXiv 2311.03797), with deterministic weights; the proof of every
constant is docs/concentration.md. For n rows and a public radius tau:

    f_i = number of rows within 2 tau of row i, itself included
    w_i = clip(6 f_i / n - 3, 0, 1),    W = sum of w_i,    mean = sum of w_i x_i / W
    t   = 2 (sum of f_i) / n - n        (W >= t)

Formal guarantees, when one row is added or taken away:
- W moves by less than 4, and t by less than 3;
- where W or its neighbour is at least ``min_weight >= 4``, the mean moves by less than
  ``52/3 tau / min_weight``;
- whether two rows are neighbours is decided by these two rows alone, to the last bit, and then
  their true distance is at most 2 tau.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Change of the statistic by one row is below this.
STATISTICS = {"weight": 4.0, "pairs": 3.0}
LEAST_WEIGHT = 4.0  # of min_weight: the neighbour of such a W is above 0, so both have a mean
MEAN_SHIFT = 52 / 3  # times tau / min_weight
_BLOCK = 256  # rows whose distances to all others are held at a time
_UNIT = 2.0**-53


@dataclass(frozen=True, kw_only=True)
class Concentration:
    """What the distances between n rows add up to, exact but for the last division."""

    scores: np.ndarray  # (n,) int64: n times the weights
    pairs: int  # ordered pairs of neighbours, a row and itself included

    @property
    def weights(self) -> np.ndarray:
        """(n,) float64 in [0, 1]."""
        return self.scores / max(1, len(self.scores))

    def statistic(self, name: str) -> float:
        """W ("weight") or t ("pairs"); 0 without rows."""
        n = len(self.scores)
        value = int(self.scores.sum()) if name == "weight" else 2 * self.pairs - n * n
        return value / max(1, n)

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """(D,) float64 weighted mean of rows (n, D); zero where no row has weight."""
        total = int(self.scores.sum())
        return self.scores.astype(np.float64) @ rows / max(1, total)


def measure(rows: np.ndarray, tau: float) -> Concentration:
    """Concentration of finite float64 rows (n, D) at radius ``tau``.

    Raises:
        ValueError: a row is not finite, or the radius is outside 1e-100 .. 1e100.
    """
    counts, n = neighbour_counts(rows, tau), len(rows)
    scores = np.clip(6 * counts - 3 * n, 0, n)
    return Concentration(scores=scores, pairs=int(counts.sum()))


def neighbour_counts(rows: np.ndarray, tau: float) -> np.ndarray:
    """(n,) int64: how many rows lie within 2 tau of each, itself included.

    Memory beyond the rows is that of some hundred rows of n numbers.
    """
    if not 1e-100 <= tau <= 1e100:
        raise ValueError(f"Expected 1e-100 <= {tau=} <= 1e100.")
    squares = np.einsum("ij,ij->i", rows, rows)
    if not np.isfinite(squares).all():
        raise ValueError("Expected finite rows.")
    counts = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), _BLOCK):
        inside = _inside(rows, squares, start, tau)
        size = len(inside)
        counts[start : start + size] += inside.sum(1)
        counts[start + size :] += inside[:, size:].sum(0)
    return counts


def are_neighbours(row: np.ndarray, other: np.ndarray, tau: float) -> bool:
    """Whether two rows (D,) count as within 2 tau: symmetric, and a function of these two alone.

    The bound on the rounded square is drawn in by more than its rounding error.
    """
    difference = row - other
    return bool(np.sum(difference * difference) <= _limit(len(row), tau))


def _limit(size: int, tau: float) -> float:
    return 4 * tau * tau * (1 - 2 * (size + 8) * _UNIT)


def _inside(rows: np.ndarray, squares: np.ndarray, start: int, tau: float) -> np.ndarray:
    """(block, n - start) bool: neighbours of a block of rows among themselves and later rows.

    Distances by the inner product, whose last bits depend on the whole block; wherever these could
    matter, ``are_neighbours`` decides. Rounding of both ways together is below ``8 (D + 8) 2^-53``
    times the sum of the two squares (Higham 2002, 3.1, in any order of summation).
    """
    block, later = rows[start : start + _BLOCK], rows[start:]
    together = squares[start : start + len(block), None] + squares[None, start:]
    distances = together - 2 * (block @ later.T)
    doubt = 8 * (rows.shape[1] + 8) * _UNIT * together
    limit = _limit(rows.shape[1], tau)
    inside = distances <= limit
    for i, j in np.argwhere(np.abs(distances - limit) <= doubt):
        inside[i, j] = are_neighbours(block[i], later[j], tau)
    np.fill_diagonal(inside, True)
    return inside


def split(noise_multiplier: float, test_share: float) -> tuple[float, float]:
    """(z_t, z_g) of test and update, with ``z^-2 = z_t^-2 + z_g^-2`` and z_t's share of it."""
    return noise_multiplier / math.sqrt(test_share), noise_multiplier / math.sqrt(1 - test_share)
