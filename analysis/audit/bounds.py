"""Lower bounds on epsilon from guesses, error rates and cosines; pure statistics.

- `one_run_epsilon`: correct guesses of many coins in one run (Steinke, Nasr, Jagielski, arXiv
  2305.08846, Theorem 5.2).
- `rates_epsilon`: error rates of many repeated runs (Nasr et al., arXiv 2302.07956, section 4).
- `two_normals_epsilon`: an estimate without confidence (Andrew et al., arXiv 2302.03098).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special, stats

MOST_EPSILON = 200.0  # larger values are not told apart
_TOLERANCE = 1e-4  # of epsilon


def clopper_pearson_upper(count: int, trials: int, failure: float) -> float:
    """Upper confidence bound of a rate: exact, wrong with a probability of at most ``failure``."""
    if count >= trials:
        return 1.0
    return float(special.betaincinv(count + 1, trials - count, 1 - failure))


def rates_epsilon(false_positives: float, false_negatives: float, delta: float) -> float:
    """The least epsilon at which an (epsilon, delta)-DP mechanism allows these error rates.

    Args:
        false_positives: bound of the rate of "in" where the canary is out.
        false_negatives: bound of the rate of "out" where the canary is in.
        delta: of the claim.
    """
    best = 0.0
    for one, other in ((false_positives, false_negatives), (false_negatives, false_positives)):
        gain = 1 - delta - one
        if gain > 0:
            best = max(best, math.log(gain / other) if other > 0 else MOST_EPSILON)
    return min(best, MOST_EPSILON)


def one_run_p_value(
    *, canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """Probability of so many correct guesses under (epsilon, delta)-DP, at most.

    Each canary is in or out by a fair coin of its own; the auditor guesses some of the coins and
    abstains on the others (arXiv 2305.08846, Theorem 5.2). ``X ~ Binomial(guesses, p)`` with
    ``p = e^epsilon / (1 + e^epsilon)``; the bound is
    ``P[X >= v] + 2 m delta max over i >= 1 of P[v > X >= v - i] / i``.

    Args:
        canaries: m.
        guesses: r, at most m.
        correct: v, at most r.

    Raises:
        ValueError: unless 0 <= correct <= guesses <= canaries.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"Expected 0 <= {correct=} <= {guesses=} <= {canaries=}.")
    binomial = stats.binom(guesses, special.expit(epsilon))
    tail = float(binomial.sf(correct - 1))
    if not delta:
        return tail
    below = np.cumsum(binomial.pmf(np.arange(correct - 1, -1, -1)))  # P[v > X >= v - i], i = 1...
    slope = float(np.max(below / np.arange(1, correct + 1), initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * slope)


def one_run_epsilon(
    *, canaries: int, guesses: int, correct: int, delta: float, failure: float
) -> float:
    """Lower bound on epsilon from one run, wrong with a probability of at most ``failure``.

    Args:
        canaries: m, included by a fair coin each.
        guesses: r.
        correct: v.
        delta: of the claim.
        failure: of the bound, for example 0.05.
    """

    def excluded(epsilon: float) -> bool:
        p_value = one_run_p_value(
            canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
        )
        return p_value <= failure

    low, high = 0.0, 1.0
    if not excluded(low):
        return 0.0
    while excluded(high):
        low, high = high, 2 * high
        if low >= MOST_EPSILON:
            return MOST_EPSILON
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if excluded(middle) else (low, middle)
    return low


def two_normals_epsilon(mean: float, std: float, null_std: float, delta: float) -> float:
    """Epsilon that two normal distributions differ by at ``delta``: an estimate, no bound.

    Args:
        mean: of the canaries' statistic where they are in.
        std: of the same.
        null_std: of the statistic where they are out; its mean is 0.
        delta: of the claim.
    """
    scale = max(null_std, 1e-300)
    mean, std = abs(mean) / scale, max(std / scale, 1e-9)

    def excess(epsilon: float) -> float:
        forth = _hockey_stick(mean, std, 0.0, 1.0, epsilon)
        back = _hockey_stick(0.0, 1.0, mean, std, epsilon)
        return max(forth, back) - delta

    if excess(0.0) <= 0:
        return 0.0
    if excess(MOST_EPSILON) >= 0:
        return MOST_EPSILON
    return float(optimize.brentq(excess, 0.0, MOST_EPSILON, xtol=_TOLERANCE))


def _hockey_stick(mean: float, std: float, other: float, other_std: float, epsilon: float) -> float:
    """``sup over events S of P(S) - e^epsilon Q(S)`` of two normals P and Q.

    The best event is where the log density ratio, a quadratic, is at least epsilon.
    """
    a = 0.5 / other_std**2 - 0.5 / std**2
    b = mean / std**2 - other / other_std**2
    c = 0.5 * (other / other_std) ** 2 - 0.5 * (mean / std) ** 2
    c += math.log(other_std / std) - epsilon
    ends = _where_not_negative(a, b, c)
    mass = sum(_mass(mean, std, low, high) for low, high in ends)
    # log first: the factor may overflow where the mass is 0
    other_mass = sum(_mass(other, other_std, low, high) for low, high in ends)
    penalty = math.exp(min(700.0, epsilon + math.log(other_mass))) if other_mass > 0 else 0.0
    return mass - penalty


def _mass(mean: float, std: float, low: float, high: float) -> float:
    """P[low <= X <= high] of a normal X, from the tail that loses no digits."""
    low, high = (low - mean) / std, (high - mean) / std
    if low > 0:
        low, high = -high, -low
    return float(special.ndtr(high) - special.ndtr(low))


def _where_not_negative(a: float, b: float, c: float) -> list[tuple[float, float]]:
    """Intervals on which ``a x^2 + b x + c >= 0``."""
    if abs(a) < 1e-12:
        if abs(b) < 1e-12:
            return [(-math.inf, math.inf)] if c >= 0 else []
        return [(-c / b, math.inf)] if b > 0 else [(-math.inf, -c / b)]
    root = b * b - 4 * a * c
    if root <= 0:
        return [(-math.inf, math.inf)] if a > 0 else []
    low, high = sorted(((-b - math.sqrt(root)) / (2 * a), (-b + math.sqrt(root)) / (2 * a)))
    return [(-math.inf, low), (high, math.inf)] if a > 0 else [(low, high)]
