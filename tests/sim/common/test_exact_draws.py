"""Rounded Gaussians and geometric gaps have their exact laws, to the last bit of every tail."""

from __future__ import annotations

import functools

import mpmath
import numpy as np
import pytest
from scipy import special, stats

from userdp.sim.common import exact_draws, rng

DRAWS = 400_000
FINE = 1.37 * 2**20  # steps of the grid in a standard deviation, as in a run


@pytest.fixture(autouse=True)
def precise():
    """1,200 bits in the oracles: planted bits go to 2^-900."""
    with mpmath.workprec(1200):
        yield


def stream(number=1):
    return rng.Secrets(replay_seed=11).stream("noise", number)


class Planted:
    """A stream of given words, and of ones after these; counts what was drawn."""

    def __init__(self, *words):
        self.left, self.drawn = list(words), 0

    def words(self, size):
        self.drawn += size
        return np.array([self.left.pop(0) if self.left else 1 for _ in range(size)], np.uint64)


class Counted:
    """A stream that counts what was drawn from it."""

    def __init__(self):
        self.source, self.drawn = stream(), 0

    def words(self, size):
        self.drawn += size
        return self.source.words(size)


def digits(value, count):
    """The first words of the bits of a number in (0, 1), after its point."""
    whole = int(mpmath.floor(value * mpmath.mpf(2) ** (64 * count)))
    return [whole >> 64 * i & (2**64 - 1) for i in reversed(range(count))]


def just_below(value, count):
    """Words that agree with ``value`` up to the last one, which is one less, and then all ones."""
    words = digits(value, count)
    borrowed = functools.reduce(lambda whole, word: whole << 64 | word, words, 0) - 1
    return [borrowed >> 64 * i & (2**64 - 1) for i in reversed(range(count))] + [2**64 - 1] * 20


def just_above(value, count):
    words = digits(value, count)
    raised = functools.reduce(lambda whole, word: whole << 64 | word, words, 0) + 1
    return [raised >> 64 * i & (2**64 - 1) for i in reversed(range(count))] + [0] * 20


# --- rounded Gaussians ---------------------------------------------------------------------------


def beyond(k, std):
    """Probability of k or more, by the definition."""
    return mpmath.erfc((k - mpmath.mpf(1) / 2) / (mpmath.mpf(std) * mpmath.sqrt(2))) / 2


def coarse_p_value(draws, std):
    """Chi-square of the integers against differences of tail probabilities."""
    reach = int(3 * std)
    tails = [float(beyond(k, std)) for k in range(-reach, reach + 2)]
    wanted = np.array([1 - tails[0], *-np.diff(tails), tails[-1]]) * len(draws)
    places = np.clip(draws, -reach - 1, reach + 1).astype(int) + reach + 1
    found = np.bincount(places, minlength=len(wanted))
    return stats.chisquare(found, wanted).pvalue


@pytest.mark.parametrize(("std", "off"), [(0.6, 0.01), (2.0, 0.01), (9.3, 0.02)])
def test_rounded_gaussians_have_their_law_and_a_wrong_scale_is_rejected(std, off):
    draws = exact_draws.rounded_normal(stream(), DRAWS, std)
    assert (draws == np.rint(draws)).all()
    assert coarse_p_value(draws, std) > 1e-3
    for wrong in (0.97, 1 - off, 1 + off, 1.03):
        other = exact_draws.rounded_normal(stream(2), DRAWS, wrong * std)
        assert coarse_p_value(other, std) < 1e-6


def test_a_floor_instead_of_a_rounding_is_rejected():
    assert coarse_p_value(np.floor(2 * rng.standard_normal(stream(), DRAWS)), 2.0) < 1e-6


def test_on_a_fine_grid_the_draws_are_gaussian_and_symmetric():
    draws = exact_draws.rounded_normal(stream(), DRAWS // 2, FINE) / FINE
    assert stats.kstest(draws, "norm", method="asymp").pvalue > 1e-3
    for wrong in (0.97, 1.03):
        assert stats.kstest(wrong * draws, "norm", method="asymp").pvalue < 1e-6
    assert abs((draws > 0).mean() - 0.5) < 4 / np.sqrt(4 * DRAWS)


@pytest.mark.parametrize("std", [0.4, 2.0, FINE])
@pytest.mark.parametrize("words", [1, 2, 4])
@pytest.mark.parametrize("standard", [0.3, 1.7, 8.5, 15.0])
def test_a_boundary_decides_to_the_last_bit_on_either_side(std, words, standard):
    """The tail's probability is planted one unit of the last word below and above a boundary."""
    k = max(1, round(standard * std))
    bound = beyond(k, std)  # below 1/2: the first bit, the sign, is 0
    if bound - beyond(k + 1, std) < mpmath.mpf(2) ** (1 - 64 * words):
        pytest.skip("the planted words do not tell this boundary from the next")
    for planted, size in ((just_below(bound, words), k), (just_above(bound, words), k - 1)):
        for sign in (0, 1):
            source = Planted(planted[0] | sign << 63, *planted[1:])
            [drawn] = exact_draws.rounded_normal(source, 1, std)
            assert abs(drawn) == size
            assert size == 0 or (drawn > 0) == bool(sign)


@pytest.mark.parametrize("zeros", [1, 2, 9, 14])
def test_no_tail_is_cut(zeros):
    """The deeper the planted zeros, the larger the draw, up to 42 standard deviations."""
    probability = mpmath.mpf(5 * 2**60) / mpmath.mpf(2) ** (64 * (zeros + 1))
    [drawn] = exact_draws.rounded_normal(Planted(*[0] * zeros, 5 * 2**60), 1, 1000.0)
    size = abs(int(drawn))
    assert beyond(size + 1, 1000.0) < probability < beyond(size, 1000.0)
    assert size > 8300


def test_what_64_bits_leave_open_is_decided_by_more_and_nothing_else_is():
    """Where no further word is drawn, both ends of what 64 bits say give one integer."""
    source = np.random.default_rng(0)
    tails = [int(n) for n in source.integers(0, 2**63, 100, dtype=np.uint64)]
    tails += [int(2.0 ** source.uniform(0, 63)) for _ in range(100)]
    clear = 0
    for std in (2.0, FINE):
        for tail in tails:
            planted = Planted(tail)
            size = abs(int(exact_draws.rounded_normal(planted, 1, std)[0]))
            if planted.drawn == 1:
                clear += 1
                low, high = (mpmath.mpf(n) / mpmath.mpf(2) ** 64 for n in (tail, tail + 1))
                assert high <= beyond(size, std)
                assert beyond(size + 1, std) <= low
    assert clear > 250


def test_the_words_beyond_the_first_are_rare():
    source = Counted()
    exact_draws.rounded_normal(source, 10**6, FINE)
    assert 10**6 <= source.drawn < 10**6 + 100


def test_the_functions_of_float64_err_by_a_thousandth_of_what_is_allowed_for():
    source = np.random.default_rng(0)
    tails = [*2.0 ** -source.uniform(1, 64, 400), *source.uniform(0, 0.5, 400)]
    tails += list(np.exp(-2) * (1 + 1e-9 * source.standard_normal(50)))  # where its pieces meet
    with mpmath.workprec(200):
        for tail in tails:
            exact, x = mpmath.mpf(float(tail)), mpmath.mpf(float(special.ndtri(tail)))
            shift = (mpmath.ncdf(x) - exact) / mpmath.npdf(x)  # Newton's step to the exact value
            assert 1000 * abs(shift) < exact_draws.NDTRI_ERROR * (1 + abs(x))
            log, log1p = mpmath.log(exact), mpmath.log1p(-exact)
            assert 1000 * abs(np.log(tail) / log - 1) < exact_draws.LOG_ERROR
            assert 1000 * abs(np.log1p(-tail) / log1p - 1) < exact_draws.LOG_ERROR


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), 2.0**33])
def test_a_scale_that_has_no_exact_draw_is_refused(std):
    with pytest.raises(ValueError, match="std="):
        exact_draws.rounded_normal(stream(), 1, std)


# --- geometric gaps ------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.3, 0.03])
def test_gaps_are_geometric_and_a_rate_three_percent_off_is_rejected(rate):
    def p_value(gaps):
        last = int(5 / rate)
        wanted = rate * (1 - rate) ** np.arange(last)
        found = np.bincount(np.minimum(gaps, last), minlength=last + 1)
        return stats.chisquare(found, np.append(wanted, (1 - rate) ** last) * len(gaps)).pvalue

    assert p_value(exact_draws.geometric_gaps(stream(), DRAWS, rate, 10**9)) > 1e-3
    for wrong in (0.97, 1.03):
        gaps = exact_draws.geometric_gaps(stream(), DRAWS, wrong * rate, 10**9)
        assert p_value(gaps) < 1e-6


@pytest.mark.parametrize("rate", [0.7, 0.01, 1e-7, 1e-12, 1 - 2.0**-53])
@pytest.mark.parametrize("gap", [1, 2, 13, 10**6])
@pytest.mark.parametrize("words", [1, 2, 3])
def test_a_coin_has_its_rate_to_the_last_bit(rate, gap, words):
    """A gap is at least k exactly where U is below (1 - rate)^k, the rate being this float64."""
    bound = (1 - mpmath.mpf(rate)) ** gap
    if bound < mpmath.mpf(2) ** (1 - 64 * words) or 1 - bound < mpmath.mpf(2) ** (1 - 64 * words):
        pytest.skip("the planted words cannot reach beyond this boundary")
    for planted, is_less in ((just_below(bound, words), False), (just_above(bound, words), True)):
        [drawn] = exact_draws.geometric_gaps(Planted(*planted), 1, rate, 10**9)
        assert (drawn < gap) == is_less


@pytest.mark.parametrize("rate", [5e-324, 1e-310, 1e-300])
@pytest.mark.parametrize("word", [0, 1, 2**63, 2**64 - 1])
def test_a_vanishing_rate_gives_the_longest_gap(rate, word):
    assert exact_draws.geometric_gaps(Planted(word), 1, rate, 1000).tolist() == [1000]
