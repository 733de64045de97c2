"""Every step of docs/concentration.md by exhaustive and random search."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdp.server.mechanisms.concentrated import statistic

TAU = 1.0


def pairwise(rows, tau=TAU):
    """(n, n) bool by definition, one pair at a time, in exact arithmetic."""
    points = [[Fraction(x) for x in row] for row in rows.tolist()]

    def near(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) <= 4 * Fraction(tau) ** 2

    found = [[near(a, b) for b in points] for a in points]
    return np.array(found, bool).reshape(len(rows), len(rows))


# --- neighbours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 7, 300, 700])
@pytest.mark.parametrize("dimensions", [1, 3, 40])
def test_counts_are_those_of_the_definition(size, dimensions):
    rows = np.random.default_rng(size).standard_normal((size, dimensions))
    tau = 0.4 * math.sqrt(dimensions)
    slow = [sum(np.linalg.norm(row - other) <= 2 * tau for other in rows) for row in rows]
    assert statistic.neighbour_counts(rows, tau).tolist() == slow


def test_memory_does_not_hold_all_differences():
    """500 rows of 20,000 numbers: all differences would take 40 GB."""
    rows = np.zeros((500, 20_000))
    rows[::2, 0] = 1.0
    assert (statistic.neighbour_counts(rows, 0.4) == 250).all()


@given(st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=2), max_size=12))
def test_two_rows_that_count_as_neighbours_are_truly_within_twice_tau(points):
    rows = np.array(points).reshape(-1, 2)
    exact = pairwise(rows)
    for i, row in enumerate(rows):
        for j, other in enumerate(rows):
            if statistic.are_neighbours(row, other, TAU):
                assert exact[i, j]


def borderline(size, dimensions, seed=0):
    """Rows about 2 tau from one another, up to rounding: half of them from the other half."""
    source = np.random.default_rng(seed)
    rows = 1e4 * source.standard_normal((1, dimensions)).repeat(size, 0)
    step = 2 * TAU * (1 + 1e-13 * source.standard_normal(size // 2))
    rows[::2, 0] += step
    return rows


@pytest.mark.parametrize("dimensions", [1, 5, 333])
def test_whether_two_rows_are_neighbours_depends_on_no_third(dimensions):
    """On the border, where the inner product's last bits vary with the block."""
    rows = borderline(60, dimensions)
    alone = np.array([[statistic.are_neighbours(a, b, TAU) for b in rows] for a in rows])
    np.fill_diagonal(alone, True)
    assert (alone == alone.T).all()
    assert 0 < alone[::2, 1::2].mean() < 1
    assert (statistic.neighbour_counts(rows, TAU) == alone.sum(1)).all()
    for left_out in range(60):
        rest = np.delete(np.arange(60), left_out)
        counts = statistic.neighbour_counts(rows[rest], TAU)
        assert (counts == alone[np.ix_(rest, rest)].sum(1)).all()


@pytest.mark.parametrize("tau", [0.0, -1.0, math.inf, math.nan])
def test_a_radius_that_is_none_is_refused(tau):
    with pytest.raises(ValueError, match="tau="):
        statistic.neighbour_counts(np.zeros((2, 2)), tau)


@pytest.mark.parametrize("poison", [math.inf, math.nan, 1e200])
def test_rows_that_are_not_finite_are_refused(poison):
    with pytest.raises(ValueError, match="finite"):
        statistic.neighbour_counts(np.array([[0.0, poison], [0.0, 0.0]]), TAU)


# --- step 1: weights, for every count that there can be ------------------------------------------


def slow_weight(count, n):
    return min(Fraction(1), max(Fraction(0), Fraction(6 * count, n) - 3))


def weight(count, n):
    """The same, for arrays of counts."""
    return np.clip(6 * count - 3 * n, 0, n) / n


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 11, 60])
def test_weights_are_those_of_the_definition(n):
    """n rows on a line, so that the counts run through many values."""
    rows = np.linspace(0, 8.1, n)[:, None]
    found = statistic.measure(rows, TAU)
    counts = pairwise(rows).sum(1)
    wanted = [slow_weight(int(count), n) for count in counts]
    assert found.weights.tolist() == [float(w) for w in wanted]
    assert found.statistic("weight") == float(sum(wanted))
    assert found.statistic("pairs") == float(Fraction(2 * int(counts.sum()), n) - n)


def test_no_rows_weigh_nothing():
    found = statistic.measure(np.zeros((0, 4)), TAU)
    assert found.statistic("weight") == found.statistic("pairs") == 0
    assert found.mean(np.zeros((0, 4))).tolist() == [0.0] * 4


@pytest.mark.parametrize("n", [*range(1, 40), 100, 1000])
def test_a_rows_weight_moves_by_less_than_4_over_n_plus_1_or_3_if_it_gains_a_neighbour(n):
    """All counts f of n rows, without and with the added row as a neighbour: exhaustive."""
    counts = np.arange(1, n + 1)
    strange = weight(counts, n + 1) - weight(counts, n)
    near = weight(counts + 1, n + 1) - weight(counts, n)
    assert -4 / (n + 1) - 1e-12 < strange.min() <= strange.max() <= 0
    assert 0 <= near.min() <= near.max() < 3 / (n + 1) + 1e-12


@pytest.mark.parametrize("n", [*range(1, 40), 100, 1000])
def test_all_weights_together_move_by_less_than_4_and_with_the_new_one_by_less_than_13_thirds(n):
    """The worst of each kind at once, whether or not rows lie so; any number of neighbours."""
    counts = np.arange(1, n + 1)
    strange = weight(counts, n + 1) - weight(counts, n)
    near = weight(counts + 1, n + 1) - weight(counts, n)
    gained = np.arange(n + 1)  # neighbours of the new row among the n
    new = weight(gained + 1, n + 1)
    changed = (n - gained) * -strange.min() + gained * near.max()
    assert changed.max() < 4
    assert (changed + new).max() < statistic.MEAN_SHIFT / 4 + 1e-12
    rise, fall = gained * near.max() + new, (n - gained) * -strange.min() - new
    assert max(rise.max(), fall.max()) < statistic.STATISTICS["weight"]


# --- steps 2 to 5 on rows ------------------------------------------------------------------------


def population(kind, batch, n, source):
    """(batch, n + 1, d) rows, the last of which is the one added."""
    if kind == "line":
        return source.uniform(0, source.uniform(1, 8, (batch, 1, 1)), (batch, n + 1, 1))
    if kind == "plane":
        return source.standard_normal((batch, n + 1, 2)) * source.uniform(0.3, 4, (batch, 1, 1))
    if kind == "clusters":  # heads at distances around 2 tau, the points close to one of them
        heads = source.choice([0, 2, 2.02, 4, 6], (batch, 4, 1)) * np.ones((1, 1, 2))
        chosen = source.integers(0, source.integers(1, 5, (batch, 1)), (batch, n + 1))
        points = np.take_along_axis(heads, chosen[..., None], 1)
        return points + 0.02 * source.standard_normal((batch, n + 1, 2))
    # "chain": multiples of 2 tau less a hair, where the diameter comes near 4 tau
    return source.integers(-2, 3, (batch, n + 1, 1)) * (2 * TAU * (1 - 1e-9))


def near(rows):
    """(batch, n, n) bool."""
    return ((rows[:, :, None] - rows[:, None]) ** 2).sum(-1) <= 4 * TAU**2


def described(rows):
    """Weights (batch, n), statistics (batch,) and means (batch, d) of a batch of row sets."""
    counts, n = near(rows).sum(2), max(1, rows.shape[1])
    weights = np.clip(6 * counts / n - 3, 0, 1)
    total = weights.sum(1)
    with np.errstate(invalid="ignore"):
        means = np.einsum("bn,bnd->bd", weights, rows) / total[:, None]
    return weights, total, 2 * counts.sum(1) / n - rows.shape[1], means


def check_steps(rows):
    """All inequalities of the proof between row sets without and with their last row."""
    weights, total, pairs, means = described(rows[:, :-1])
    weights_after, total_after, pairs_after, means_after = described(rows)
    changed = np.abs(weights_after[:, :-1] - weights).sum(1)
    assert (changed < 4).all()
    assert (changed + weights_after[:, -1] < 13 / 3).all()
    assert (np.abs(total_after - total) < statistic.STATISTICS["weight"]).all()
    assert (np.abs(pairs_after - pairs) < statistic.STATISTICS["pairs"]).all()
    assert (total >= pairs - 1e-9).all()
    assert (total_after >= pairs_after - 1e-9).all()
    assert (diameters(rows, weights, weights_after) <= 4 * TAU).all()
    both = (total > 0) & (total_after > 0)
    shift = np.linalg.norm(means_after - means, axis=1)[both]
    bound = statistic.MEAN_SHIFT * TAU / np.maximum(total, total_after)[both]
    assert (shift < bound).all()
    known = np.maximum(total, total_after) >= statistic.LEAST_WEIGHT
    assert both[known].all()
    return np.abs(total_after - total).max(), (shift / bound).max(initial=0)


def diameters(rows, weights, weights_after):
    """(batch,) largest distance of two rows that have weight, be it in either set."""
    heavy = weights_after > 0
    heavy[:, :-1] |= weights > 0
    distances = np.sqrt(((rows[:, :, None] - rows[:, None]) ** 2).sum(-1))
    return np.where(heavy[:, :, None] & heavy[:, None], distances, 0).max((1, 2), initial=0)


@pytest.mark.parametrize("kind", ["line", "plane", "clusters", "chain"])
def test_every_step_of_the_proof_on_random_neighbours(kind):
    """40,000 pairs of neighbours a kind, from no row to 60; read both ways, as the bounds are."""
    source = np.random.default_rng(0)
    worst = np.zeros(2)
    for n in [*range(0, 24), 30, 45, 60]:
        batch = 2400 if n < 16 else 400
        worst = np.maximum(worst, check_steps(population(kind, batch, n, source)))
    assert worst[0] > 0.9  # a new row among its like counts one


def star(n, gained, spread):
    """(1, n + 1, 2): ``gained`` rows near the new one at 0, the others ``spread`` away."""
    rows = np.zeros((1, n + 1, 2))
    rows[0, gained:n, 0] = spread
    return rows


def test_every_step_on_two_groups_of_all_sizes_at_the_edge_of_the_radius():
    edge = 2 * TAU
    worst = np.zeros(2)
    for n in range(1, 40):
        for gained in range(n + 1):
            for spread in (edge * (1 - 1e-12), edge * (1 + 1e-12), 2 * edge, 2.001 * edge):
                worst = np.maximum(worst, check_steps(star(n, gained, spread)))
    assert worst[0] > 2  # the bound of 4 is not far off


def test_the_bounds_are_not_generous():
    """A line of three groups in which weights are lost: |W' - W| comes near 4."""
    rows = np.zeros((1, 901, 1))
    rows[0, 600:900] = 3 * TAU  # 600 together, their weight exactly 1, and 300 elsewhere
    rows[0, 900] = 3 * TAU
    moved, _ = check_steps(rows)
    assert moved > 2.6


@pytest.mark.parametrize("constant", ["weight", "pairs", "mean"])
def test_the_check_finds_a_constant_that_is_too_small(monkeypatch, constant):
    if constant == "mean":
        monkeypatch.setattr(statistic, "MEAN_SHIFT", 52 / 3 / 50)
    else:
        smaller = {**statistic.STATISTICS, constant: 2.0}
        monkeypatch.setattr(statistic, "STATISTICS", smaller)
    with pytest.raises(AssertionError):
        check_stars_and_hubs()


def check_stars_and_hubs():
    for n in range(1, 40):
        check_hub(n)
        for gained in range(n + 1):
            check_steps(star(n, gained, 2 * TAU * (1 - 1e-12)))
            check_steps(star(n, gained, 2 * TAU * (1 + 1e-12)))


def check_hub(n):
    """n corners of a simplex, over 2 tau apart, and the new row in their middle, near all."""
    rows = np.zeros((1, n + 1, n))
    rows[0, :n] = np.eye(n) * (2 * TAU * (1 - 1e-9))
    check_steps(rows)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 40])
def test_a_row_near_all_of_a_scattered_crowd_moves_the_pairs_by_less_than_3(n):
    check_hub(n)


def test_the_module_agrees_with_the_vectorised_oracle():
    source = np.random.default_rng(3)
    for n in (1, 2, 5, 17, 40):
        [rows] = population("clusters", 1, n, source)
        weights, total, pairs, means = described(rows[None])
        found = statistic.measure(rows, TAU)
        np.testing.assert_allclose(found.weights, weights[0], atol=1e-15)
        assert found.statistic("weight") == pytest.approx(total[0], abs=1e-12)
        assert found.statistic("pairs") == pytest.approx(pairs[0], abs=1e-12)
        if total[0]:
            np.testing.assert_allclose(found.mean(rows), means[0], atol=1e-12)


def test_a_mean_leaves_outliers_out():
    rows = np.zeros((100, 3))
    rows[:10] = 50.0
    found = statistic.measure(rows, TAU)
    assert found.statistic("weight") == 90
    assert found.mean(rows).tolist() == [0.0] * 3


# --- the split ------------------------------------------------------------------------------------


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 0.999))
def test_test_and_update_combine_to_z(z, share):
    of_test, of_update = statistic.split(z, share)
    assert of_test**-2 + of_update**-2 == pytest.approx(z**-2, rel=1e-12)
    assert (z / of_test) ** 2 == pytest.approx(share, rel=1e-9)
