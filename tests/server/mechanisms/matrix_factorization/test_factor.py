"""The banded factor: its columns, its errors by dense algebra, and its optimality.

Optimality has three oracles: a dual certificate, the fixed point of Denisov et al. (2202.08312) for
single participation, and a generic solver over X = M^T M.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg, optimize

from userdp.server.mechanisms.matrix_factorization.factor import (
    OBJECTIVES,
    identity,
    optimal,
    square_root,
)

SHAPES = [(1, 1), (5, 1), (5, 3), (7, 7), (30, 5), (49, 24), (60, 20), (64, 64), (101, 7)]
shapes = pytest.mark.parametrize(("rounds", "bands"), SHAPES)


def prefixes(rounds):
    return np.tril(np.ones((rounds, rounds)))


def dense_errors(factor):
    """Variance of the noise on every prefix sum, by dense inversion."""
    return ((prefixes(factor.rounds) @ np.linalg.inv(factor.matrix())) ** 2).sum(axis=1)


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def certificate(factor, weights):
    """A lower bound of ``sum w_t (R R^T)_tt`` over every b-banded X with a unit diagonal.

    Lagrange duality: for any L >= 0 that vanishes on the band off its diagonal, the minimum over X
    of ``tr(W X^-1) + tr(L X) - tr(L)`` is ``2 tr((W^1/2 L W^1/2)^1/2) - tr(L)``, and of a feasible
    X it is ``tr(W X^-1)``. L is the gradient at the factor, projected, and shifted to be >= 0.
    """
    matrix, size = factor.matrix(), factor.rounds
    work = prefixes(size).T @ (weights[:, None] * prefixes(size))
    inverse = np.linalg.inv(matrix.T @ matrix)
    dual = inverse @ work @ inverse
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    dual[(apart > 0) & (apart < factor.width)] = 0
    dual = (dual + dual.T) / 2
    dual += max(0.0, -np.linalg.eigvalsh(dual)[0]) * np.eye(size)
    half = root(work)
    inner = np.linalg.eigvalsh(half @ dual @ half)
    return 2 * np.sqrt(np.maximum(inner, 0)).sum() - np.trace(dual)


@shapes
def test_the_factor_times_its_other_half_is_the_matrix_of_prefix_sums(rounds, bands):
    factor = optimal(rounds, bands)
    other = np.array([linalg.solve(factor.matrix().T, row) for row in prefixes(rounds)])
    np.testing.assert_allclose(other @ factor.matrix(), prefixes(rounds), atol=1e-10)
    np.testing.assert_allclose((other**2).sum(axis=1), factor.errors, rtol=1e-9)


@shapes
@pytest.mark.parametrize("make", [optimal, square_root])
def test_columns_have_norm_one_and_nothing_stands_outside_the_bands(make, rounds, bands):
    factor = make(rounds, bands)
    matrix = factor.matrix()
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=0), 1, rtol=1e-14)
    assert (np.diag(matrix) > 0).all()
    assert (np.triu(matrix, 1) == 0).all()
    assert (np.tril(matrix, -bands) == 0).all()
    rows = [matrix[t, max(0, t - bands + 1) : t + 1][::-1] for t in range(rounds)]
    for number, row in enumerate(rows, start=1):
        np.testing.assert_array_equal(factor.row(number), row)


@shapes
def test_errors_and_variances_are_those_of_dense_algebra(rounds, bands):
    factor = optimal(rounds, bands)
    np.testing.assert_allclose(factor.errors, dense_errors(factor), rtol=1e-9)
    spread = (np.linalg.inv(factor.matrix()) ** 2).sum(axis=1)
    np.testing.assert_allclose(factor.variances, spread, rtol=1e-9)
    assert factor.mean_error == pytest.approx(dense_errors(factor).mean())
    assert factor.max_error == pytest.approx(dense_errors(factor).max())
    assert factor.last_error == pytest.approx(dense_errors(factor)[-1])


@shapes
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_factor_of_these_bands_has_less_error(rounds, bands, objective):
    factor = optimal(rounds, bands, objective)
    weights = np.ones(rounds) if objective == "mean" else np.full(rounds, 0.1)
    if objective == "last":
        weights[-1] = rounds
    found, least = weights @ factor.errors, certificate(factor, weights)
    assert least <= found * (1 + 1e-9)
    assert found <= least * (1 + 1e-5)


@pytest.mark.parametrize(("rounds", "bands"), [(30, 5), (64, 64)])
def test_the_certificate_refuses_a_factor_that_is_not_optimal(rounds, bands):
    other = square_root(rounds, bands)
    assert other.mean_error * rounds > 1.01 * certificate(other, np.ones(rounds))


@pytest.mark.parametrize("rounds", [3, 20, 64])
def test_full_width_is_the_fixed_point_of_single_participation(rounds):
    """lambda = diag((L^1/2 P^T P L^1/2)^1/2), L = diag(lambda): Denisov et al., Theorem 3.2."""
    work, multipliers = prefixes(rounds).T @ prefixes(rounds), np.ones(rounds)
    for _ in range(1000):
        scale = np.sqrt(multipliers)
        multipliers = np.diag(root(scale[:, None] * work * scale))
    assert optimal(rounds, rounds).mean_error * rounds == pytest.approx(multipliers.sum(), rel=1e-6)


@pytest.mark.parametrize(("rounds", "bands"), [(4, 2), (6, 3), (6, 6)])
def test_a_generic_solver_over_the_gram_matrix_finds_the_same_error(rounds, bands):
    work = prefixes(rounds).T @ prefixes(rounds)
    rows, columns = np.tril_indices(rounds, -1)
    free = rows - columns < bands

    def error(values):
        gram = np.eye(rounds)
        gram[rows[free], columns[free]] = gram[columns[free], rows[free]] = values
        if np.linalg.eigvalsh(gram)[0] < 1e-6:
            return 1e6
        return np.trace(work @ np.linalg.inv(gram))

    found = optimize.minimize(
        error,
        np.zeros(free.sum()),
        method="Powell",
        options={"maxiter": 20000, "xtol": 1e-9, "ftol": 1e-13},
    )
    ours = rounds * optimal(rounds, bands).mean_error
    assert ours <= found.fun * (1 + 1e-9)
    assert ours == pytest.approx(found.fun, rel=1e-4)


@pytest.mark.parametrize("rounds", [1, 10, 100])
def test_no_factor_is_below_the_nuclear_norm_and_the_dense_one_is_close(rounds):
    """``||R||_F ||M||_F >= ||P||_*``; P has singular values 1 / (2 sin((2k-1) pi/(4T+2)))."""
    angles = (2 * np.arange(1, rounds + 1) - 1) * math.pi / (4 * rounds + 2)
    least = (0.5 / np.sin(angles)).sum() ** 2 / rounds
    for bands in sorted({1, min(5, rounds), rounds}):
        assert optimal(rounds, bands).mean_error * rounds >= least * (1 - 1e-12)
    assert optimal(rounds, rounds).mean_error * rounds <= 1.09 * least


def test_more_bands_mean_less_error_and_one_band_is_independent_noise():
    errors = [optimal(60, bands).mean_error for bands in (1, 2, 3, 5, 10, 20, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx((60 + 1) / 2)
    np.testing.assert_array_equal(optimal(60, 1).matrix(), np.eye(60))
    np.testing.assert_array_equal(identity(60).errors, np.arange(1, 61))


@pytest.mark.parametrize("bands", [2, 10, 60])
def test_it_beats_the_square_root_and_that_one_squares_to_prefix_sums(bands):
    assert optimal(60, bands).mean_error < 0.99 * square_root(60, bands).mean_error
    full = square_root(60, 60).matrix()
    toeplitz = full / np.diag(full)  # before the columns were made equal
    np.testing.assert_allclose(toeplitz @ toeplitz, prefixes(60), atol=1e-12)


def test_the_last_iterate_can_be_bought_with_the_ones_before():
    mean, last = optimal(60, 10), optimal(60, 10, "last")
    assert last.last_error < 0.9 * mean.last_error
    assert last.mean_error > mean.mean_error


def test_more_bands_than_rounds_are_as_many_as_rounds():
    assert optimal(6, 50).digest == optimal(6, 6).digest


def test_the_search_is_deterministic_and_kept():
    first = optimal(50, 6)
    assert optimal(50, 6) is first
    again = optimal.__wrapped__(50, 6)
    assert again is not first
    assert again.digest == first.digest
    assert optimal(50, 5).digest != first.digest
    with pytest.raises(ValueError, match="read-only"):
        first.bands[0, 0] = 2


def test_a_thousand_rounds_are_searched_as_sixty_are():
    """Norms and errors against dense algebra; the certificate is for small T."""
    factor = optimal(1000, 20)
    np.testing.assert_allclose(np.linalg.norm(factor.bands, axis=0), 1, rtol=1e-14)
    assert factor.errors == pytest.approx(dense_errors(factor), rel=1e-8)
    assert factor.mean_error < 0.8 * square_root(1000, 20).mean_error


@pytest.mark.parametrize("arguments", [(0, 1), (4, 0), (4, 2, "mode")])
def test_what_is_no_factor_is_refused(arguments):
    with pytest.raises(ValueError, match="Expected"):
        optimal(*arguments)


@pytest.mark.parametrize("number", [0, 7])
def test_a_round_beyond_the_horizon_is_refused(number):
    with pytest.raises(ValueError, match="from 1 to 6"):
        optimal(6, 2).row(number)
