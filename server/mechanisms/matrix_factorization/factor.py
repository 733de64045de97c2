"""The factor of correlated noise: banded, of columns of norm 1, and optimal for its horizon.

A run of T rounds publishes prefix sums ``P G`` of its clipped sums G (P lower-triangular, all
ones). With ``P = R M``, ``M`` lower-triangular, the noise ``R xi`` on ``P G`` is the noise ``y`` of
``M y = xi`` on G itself, round by round (Denisov et al., arXiv 2202.08312). A column of M is what
one participation moves in ``M G + xi``: columns of norm 1 that end after b rows (bands) make users
who take part at least b rounds apart pay for single rounds (Choquette-Choo et al., 2306.08153).

`optimal` minimises the squared error of the prefix sums, ``sum_t w_t (R R^T)_tt``, over all such M.
In ``X = M^T M`` (unit diagonal, b-banded) the problem is convex, and every such positive definite X
has its M: a stationary point is the optimum. The search runs over columns with 1 on the diagonal,
divided by their norm, so that every point of it is a valid factor. ``P^-1`` is a difference, so
``R^-1 = M P^-1`` has b + 1 bands and an evaluation costs O(T b^2) (`userdp.server.mechanisms.matrix_factorization.block_matrices`). Written
here because the libraries that do this bring a second deep-learning framework.

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
_OTHERS = 0.1  # weight of all but the last prefix sum, where the last one counts T


@dataclass(frozen=True, eq=False)
class Factor:
    """A lower-triangular M of T rows, by its bands.

    Formal guarantees: every column has norm 1 to rounding and a positive diagonal; entries outside
    the bands are zero; all errors are those of noise N(0, 1), one participation at clip norm 1.
    """

    bands: np.ndarray  # (b, T) float64, bands[d, j] = M[j + d, j]; read-only

    @property
    def rounds(self) -> int:
        """T."""
        return self.bands.shape[1]

    @property
    def width(self) -> int:
        """b."""
        return self.bands.shape[0]

    def row(self, number: int) -> np.ndarray:
        """(up to b,) the entries of row ``number`` (from 1): M[t, t], M[t, t-1], and so on back.

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
            kept = np.arange(self.rounds - depth)
            dense[kept + depth, kept] = band[: self.rounds - depth]
        return dense

    @functools.cached_property
    def variances(self) -> np.ndarray:
        """(T,) variance of the noise ``y_t`` that a round adds to its sum."""
        return block_matrices.variances(self.bands)

    @functools.cached_property
    def errors(self) -> np.ndarray:
        """(T,) variance of the noise on each prefix sum, ``(R R^T)_tt``."""
        return block_matrices.variances(_of_prefixes(self.bands))

    @property
    def mean_error(self) -> float:
        """``||R||_F^2 / T``: mean squared error of a prefix sum."""
        return float(self.errors.mean())

    @property
    def max_error(self) -> float:
        return float(self.errors.max())

    @property
    def last_error(self) -> float:
        return float(self.errors[-1])

    @property
    def digest(self) -> str:
        """SHA-256 of the coefficients, bit for bit."""
        shape = "x".join(map(str, self.bands.shape))
        return hashlib.sha256(shape.encode() + self.bands.tobytes()).hexdigest()


@functools.lru_cache(maxsize=64)
def optimal(rounds: int, bands: int, objective: str = "mean") -> Factor:
    """The factor of least error; deterministic, and kept for the jobs of a sweep.

    Args:
        rounds: T, the horizon.
        bands: b, at most; T and above is the dense optimum of single participation.
        objective: "mean" (all prefix sums alike) or "last" (the last one counts T, each other one a
            tenth: with nothing, M would become singular and drown the rounds before).

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
        weights *= _OTHERS
        weights[-1] = rounds

    def error(values: np.ndarray) -> tuple[float, np.ndarray]:
        start[free] = values
        total, gradient = _error(start, weights)
        return total, gradient[free]

    if free.any():
        options = {"maxiter": 2000, "maxfun": 4000, "maxcor": 20, "ftol": 1e-9, "gtol": 1e-10}
        found = optimize.minimize(error, start[free], jac=True, method="L-BFGS-B", options=options)
        start[free] = found.x
    return _factor(start)


def square_root(rounds: int, bands: int) -> Factor:
    """``P^(1/2)``, the Toeplitz matrix of binom(2j, j)/4^j, cut to its first bands, norms made 1.

    Near the dense optimum (Henzinger et al., arXiv 2202.11205); here a measure, and the start of
    the search.
    """
    _check(rounds, bands)
    return _factor(_square_root_columns(rounds, min(bands, rounds)))


@functools.lru_cache(maxsize=64)
def identity(rounds: int) -> Factor:
    """Independent noise: plain DP-SGD."""
    return square_root(rounds, 1)


def _check(rounds: int, bands: int) -> None:
    if rounds < 1 or bands < 1:
        raise ValueError(f"Expected {rounds=} and {bands=} of at least 1.")


def _square_root_columns(rounds: int, bands: int) -> np.ndarray:
    """(bands, rounds) with 1 on the diagonal and zero outside the matrix."""
    later = np.arange(1, bands)
    coefficients = np.cumprod([1.0, *((2 * later - 1) / (2 * later))])
    return coefficients[:, None] * block_matrices.Blocks(bands, rounds).inside()


def _factor(columns: np.ndarray) -> Factor:
    bands = columns / np.linalg.norm(columns, axis=0)
    bands.setflags(write=False)
    return Factor(bands)


def _of_prefixes(bands: np.ndarray) -> np.ndarray:
    """(b + 1, T) bands of ``M P^-1``: column j of M less column j + 1."""
    wide = np.zeros((len(bands) + 1, bands.shape[1]))
    wide[:-1] = bands
    wide[1:, :-1] -= bands[:, 1:]
    return wide


def _error(columns: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Weighted error of the factor with these columns over their norms; gradient in the columns."""
    norms = np.linalg.norm(columns, axis=0)
    bands = columns / norms
    total, of_prefixes = block_matrices.weighted_variance(_of_prefixes(bands), weights)
    gradient = of_prefixes[:-1].copy()
    gradient[:, 1:] -= of_prefixes[1:, :-1]
    return total, (gradient - bands * (bands * gradient).sum(axis=0)) / norms
