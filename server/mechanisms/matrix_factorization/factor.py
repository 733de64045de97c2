"""Factor of correlated noise: the banded matrix with columns of norm 1 of least error.

A run of T rounds publishes prefix sums ``P G`` of its clipped sums G (P lower-triangular, all
ones). With ``P = R M``, M lower-triangular, noise ``R xi`` on ``P G`` is the same as noise y on G
itself, round by round, where ``M y = xi`` (Denisov et al., arXiv 2202.08312). One participation
moves ``M G + xi`` along one column of M. If columns have norm 1 and end after b rows (bands), users
who take part at least b rounds apart pay for each participation as for a single Gaussian
(Choquette-Choo et al., arXiv 2306.08153).

`optimal` minimises the squared error of the prefix sums, ``sum_t w_t (R R^T)_tt``, over all such M.
In ``X = M^T M`` (unit diagonal, b-banded) the problem is convex, and every such positive definite X
has a factor M, so a stationary point is the optimum. The search runs over columns with 1 on the
diagonal, divided by their norms: every point of it is a valid factor. ``P^-1`` takes differences,
so ``R^-1 = M P^-1`` has b + 1 bands, and one evaluation costs O(T b^2) (`block_matrices`). The
search is implemented in this file because the libraries that offer it need a second deep-learning
framework.

>>> best = optimal(16, 4)
>>> bool(best.mean_error < square_root(16, 4).mean_error < identity(16).mean_error)
True
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from userdp.server.mechanisms.matrix_factorization import block_matrices

OBJECTIVES = ("mean", "last")
_WEIGHT_BEFORE_LAST = 0.1  # of each earlier prefix sum, where the last one weighs T


@dataclass(frozen=True, eq=False)
class Factor:
    """A lower-triangular matrix M for T rounds, stored by its bands.

    Formal guarantees: every column has norm 1 up to rounding and a positive diagonal entry; entries
    outside the bands are zero; all errors are for noise N(0, 1), which covers one participation at
    clip norm 1.
    """

    bands: np.ndarray  # (b, T) float64, bands[d, j] = M[j + d, j]; read-only

    @property
    def rounds(self) -> int:
        """T, the horizon."""
        return int(self.bands.shape[1])

    @property
    def width(self) -> int:
        """b, the number of bands."""
        return int(self.bands.shape[0])

    def row(self, number: int) -> np.ndarray:
        """(min(b, t),) entries of row t = ``number``, from 1: M[t, t], M[t, t-1], and so on.

        Raises:
            ValueError: the horizon has no such round.
        """
        if not 1 <= number <= self.rounds:
            raise ValueError(f"Expected a round from 1 to {self.rounds}, got {number}.")
        depth = np.arange(min(self.width, number))
        return self.bands[depth, number - 1 - depth]

    def matrix(self) -> np.ndarray:
        """M itself, (T, T)."""
        dense = np.zeros((self.rounds, self.rounds))
        for depth, band in enumerate(self.bands):
            columns = np.arange(self.rounds - depth)
            dense[columns + depth, columns] = band[: self.rounds - depth]
        return dense

    @functools.cached_property
    def variances(self) -> np.ndarray:
        """(T,) variance of the noise ``y_t`` on the sum of each round."""
        return block_matrices.variances(self.bands)

    @functools.cached_property
    def errors(self) -> np.ndarray:
        """(T,) variance of the noise on each prefix sum, ``(R R^T)_tt``."""
        return block_matrices.variances(_prefix_bands(self.bands))

    @property
    def mean_error(self) -> float:
        """``||R||_F^2 / T``: squared error of a prefix sum, averaged over the rounds."""
        return float(self.errors.mean())

    @property
    def max_error(self) -> float:
        """Largest squared error of a prefix sum."""
        return float(self.errors.max())

    @property
    def last_error(self) -> float:
        """Squared error of the last prefix sum."""
        return float(self.errors[-1])

    @property
    def digest(self) -> str:
        """SHA-256 of the coefficients, bit for bit."""
        shape = "x".join(map(str, self.bands.shape))
        return hashlib.sha256(shape.encode() + self.bands.tobytes()).hexdigest()


@functools.lru_cache(maxsize=64)
def optimal(rounds: int, bands: int, objective: str = "mean") -> Factor:
    """The factor of least error; deterministic, and cached for the jobs of a sweep.

    Args:
        rounds: T, the horizon.
        bands: b, the largest number of bands; T or more gives the dense optimum of single
            participation.
        objective: "mean" (all prefix sums weigh the same) or "last" (the last one weighs T, each
            other one a tenth: with weight zero, M would become singular, and the noise of earlier
            rounds unbounded).

    Raises:
        ValueError: an argument is out of range.
    """
    _check(rounds, bands)
    if objective not in OBJECTIVES:
        raise ValueError(f"Expected objective in {OBJECTIVES}, got {objective!r}.")
    start = _square_root_columns(rounds, min(bands, rounds))
    free = block_matrices.Blocks(*start.shape).inside()
    free[0] = False  # the diagonal, 1 before the columns are divided by their norms
    weights = np.ones(rounds)
    if objective == "last":
        weights *= _WEIGHT_BEFORE_LAST
        weights[-1] = rounds

    def error(values: np.ndarray) -> tuple[float, np.ndarray]:
        start[free] = values
        total, gradient = _error(start, weights)
        return total, gradient[free]

    if free.any():
        options = {"maxiter": 2000, "maxfun": 4000, "maxcor": 20, "ftol": 1e-9, "gtol": 1e-10}
        result = optimize.minimize(error, start[free], jac=True, method="L-BFGS-B", options=options)
        start[free] = result.x
    return _factor(start)


def square_root(rounds: int, bands: int) -> Factor:
    """``P^(1/2)``, the Toeplitz matrix of binom(2j, j)/4^j, with its first bands and unit columns.

    Near the dense optimum (Henzinger et al., arXiv 2202.11205): the start of the search, and a
    factor to compare with.

    Raises:
        ValueError: ``rounds`` or ``bands`` is below 1.
    """
    _check(rounds, bands)
    return _factor(_square_root_columns(rounds, min(bands, rounds)))


@functools.lru_cache(maxsize=64)
def identity(rounds: int) -> Factor:
    """The identity matrix: independent noise, as in plain DP-SGD.

    Raises:
        ValueError: ``rounds`` is below 1.
    """
    return square_root(rounds, 1)


def _check(rounds: int, bands: int) -> None:
    if rounds < 1 or bands < 1:
        raise ValueError(f"Expected {rounds=} and {bands=} of at least 1.")


def _square_root_columns(rounds: int, bands: int) -> np.ndarray:
    """(bands, rounds) columns of ``P^(1/2)``: 1 on the diagonal, zero outside the matrix."""
    depth = np.arange(1, bands)
    coefficients = np.cumprod([1.0, *((2 * depth - 1) / (2 * depth))])
    columns: np.ndarray = coefficients[:, None] * block_matrices.Blocks(bands, rounds).inside()
    return columns


def _factor(columns: np.ndarray) -> Factor:
    """The factor of columns (bands, rounds), each divided by its norm."""
    bands = columns / np.linalg.norm(columns, axis=0)
    bands.setflags(write=False)
    return Factor(bands)


def _prefix_bands(bands: np.ndarray) -> np.ndarray:
    """(b + 1, T) bands of ``M P^-1``, for bands (b, T) of M: column j of M less column j + 1."""
    result = np.zeros((len(bands) + 1, bands.shape[1]))
    result[:-1] = bands
    result[1:, :-1] -= bands[:, 1:]
    return result


def _error(columns: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Weighted squared error of the factor of columns (b, T), and its gradient (b, T) in them."""
    norms = np.linalg.norm(columns, axis=0)
    bands = columns / norms
    total, prefix_gradient = block_matrices.weighted_variance(_prefix_bands(bands), weights)
    gradient = prefix_gradient[:-1].copy()
    gradient[:, 1:] -= prefix_gradient[1:, :-1]
    return total, (gradient - bands * (bands * gradient).sum(axis=0)) / norms
