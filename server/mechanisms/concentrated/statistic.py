"""Concentration of a cohort's rows and their mean without outliers, both before noise.

A variant of Asi and Liu, arXiv 2311.03797, with deterministic weights; docs/concentration.md proves
every constant. For n rows and a public radius tau:

    f_i = number of rows within 2 tau of row i, row i included
    w_i = clip(6 f_i / n - 3, 0, 1),    W = sum of w_i,    mean = sum of w_i x_i / W
    t   = 2 (sum of f_i) / n - n        (W >= t)

Formal guarantees, when one row is added or removed:
- W moves by less than 4, and t by less than 3;
- where W is at least ``min_weight >= 4`` with the row or without, the mean moves by less than
  ``52/3 tau / min_weight``;
- whether two rows count as neighbours is decided by these two rows alone, to the last bit, and if
  they do, their true distance is at most 2 tau.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Bounds on the change of each statistic by one row.
STATISTICS = {"weight": 4.0, "pairs": 3.0}
LEAST_WEIGHT = 4.0  # least min_weight: a neighbour of such a W is above 0, so both have a mean
MEAN_SHIFT = 52 / 3  # bound on the change of the mean by one row, times tau / min_weight
_BLOCK = 256  # rows whose distances to all others are in memory at a time
_ROUNDOFF = 2.0**-53  # unit roundoff of float64


@dataclass(frozen=True, kw_only=True)
class Concentration:
    """Weights and neighbour counts of n rows; whole numbers, exact until they are divided."""

    scores: np.ndarray  # (n,) int64: n times the weights
    pairs: int  # ordered pairs of neighbours, including each row with itself

    @property
    def weights(self) -> np.ndarray:
        """(n,) float64 in [0, 1]: the w_i."""
        weights: np.ndarray = self.scores / max(1, len(self.scores))
        return weights

    def statistic(self, name: str) -> float:
        """W for "weight", t for "pairs"; 0 without rows."""
        n = len(self.scores)
        value = int(self.scores.sum()) if name == "weight" else 2 * self.pairs - n * n
        return value / max(1, n)

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """(D,) float64 weighted mean of the measured rows (n, D); zero where no row has weight."""
        total = int(self.scores.sum())
        mean: np.ndarray = self.scores.astype(np.float64) @ rows / max(1, total)
        return mean


def measure(rows: np.ndarray, tau: float) -> Concentration:
    """Concentration of rows (n, D) float64 at radius ``tau``.

    Raises:
        ValueError: a row is not finite, or ``tau`` is not within [1e-100, 1e100].
    """
    counts, n = neighbour_counts(rows, tau), len(rows)
    scores = np.clip(6 * counts - 3 * n, 0, n)
    return Concentration(scores=scores, pairs=int(counts.sum()))


def neighbour_counts(rows: np.ndarray, tau: float) -> np.ndarray:
    """(n,) int64: for each of the rows (n, D), how many lie within 2 tau of it, itself included.

    Needs memory for some hundred times n numbers beside the rows.

    Raises:
        ValueError: a row is not finite, or ``tau`` is not within [1e-100, 1e100].
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
    """Whether two rows (D,) count as neighbours: symmetric, and a function of these two alone.

    The bound on the rounded squared distance is below 4 tau^2 by more than the rounding error.
    """
    difference = row - other
    return bool(np.sum(difference * difference) <= _limit(len(row), tau))


def _limit(size: int, tau: float) -> float:
    """Largest rounded squared distance of neighbours, for rows of ``size`` numbers."""
    return 4 * tau * tau * (1 - 2 * (size + 8) * _ROUNDOFF)


def _inside(rows: np.ndarray, squares: np.ndarray, start: int, tau: float) -> np.ndarray:
    """(block, n - start) bool: neighbours of the rows from ``start`` on among these and later rows.

    Distances are computed by the inner product, whose last bits depend on the whole block; where
    they could matter, ``are_neighbours`` decides. The rounding errors of both ways together are
    below ``8 (D + 8) 2^-53`` times the sum of the two squares (Higham 2002, section 3.1, for any
    order of summation).

    Args:
        rows: (n, D) float64.
        squares: (n,) float64, their squared norms.
        start: first row of the block.
        tau: the radius.
    """
    block, later = rows[start : start + _BLOCK], rows[start:]
    square_sums = squares[start : start + len(block), None] + squares[None, start:]
    distances = square_sums - 2 * (block @ later.T)
    rounding = 8 * (rows.shape[1] + 8) * _ROUNDOFF * square_sums
    limit = _limit(rows.shape[1], tau)
    inside: np.ndarray = distances <= limit
    for i, j in np.argwhere(np.abs(distances - limit) <= rounding):
        inside[i, j] = are_neighbours(block[i], later[j], tau)
    np.fill_diagonal(inside, True)
    return inside


def split(noise_multiplier: float, test_share: float) -> tuple[float, float]:
    """(z_t, z_g): the noise multipliers of test and update that together cost z.

    ``z_t^-2 + z_g^-2 = z^-2``, of which ``z_t^-2`` is the share ``test_share``.
    """
    return noise_multiplier / math.sqrt(test_share), noise_multiplier / math.sqrt(1 - test_share)
