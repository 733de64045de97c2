"""Bounds the error of the first-order Edgeworth expansion of a sum of independent equal losses.

Derumigny, Girard and Guyonvarch, "Explicit non-asymptotic bounds for the distance to the
first-order Edgeworth expansion" (arXiv 2101.05780), under moment conditions only: Prawitz's
smoothing inequality, with the characteristic function expanded near 0 (`_near_term`) and bounded
further out (`_middle_term`, `_far_term`). Integrals are not bounded by closed forms, as in Wang et
al. (arXiv 2206.04236), which is a little sharper. The constants are those of both groups' code;
moments are central, and the skewness enters by its absolute value. Leading term:
``0.1995 K3~ / sqrt(n)``.

Symbols, for the centred loss ``L`` with standard deviation ``b`` and ``n`` rounds:
``K3 = E|L|^3/b^3``, ``lambda3 = E L^3/b^3``, ``K4 = E L^4/b^4``, ``K3~ = K3 + E|L|/b``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import integrate

from userdp.server.accounting.edgeworth.loss_moments import Moments

# Prawitz: the smoothing kernel is at most 1.0253 / (2 pi |t|), on both sides of 0.
SMOOTHING = 1.0253 / math.pi
CUBIC = 0.09916191  # |char. function of a standardised L| <= exp(-t^2/2 + CUBIC * K3~ |t|^3)
NEARNESS = 0.1  # where the expansion of the logarithm is used: t^4 K4/n <= (2 NEARNESS)^2
NEGLIGIBLE_FROM = 40.0  # standard deviations from which exp(-u^2/2) is negligible
LEAST_DECAY, LARGEST_GROWTH = 0.1, 600.0  # exponents of the bound on the sum's char. function


@dataclass(frozen=True, kw_only=True)
class StandardizedMoments:
    """Standardised moments of one loss, and how many losses are added."""

    rounds: int
    skewness: float  # |lambda3|
    third: float  # K3
    third_plus: float  # K3~
    fourth: float  # K4

    @classmethod
    def of(cls, moments: Moments, rounds: int) -> StandardizedMoments:
        """Of a loss with these moments, of which ``rounds`` are added."""
        deviation = math.sqrt(moments.central[0])
        third = moments.absolute[1] / deviation**3
        return cls(
            rounds=rounds,
            skewness=abs(moments.central[1]) / deviation**3,
            third=third,
            third_plus=third + moments.absolute[0] / deviation,
            fourth=moments.central[2] / deviation**4,
        )

    @property
    def largest_argument(self) -> float:
        """Argument of the sum's characteristic function up to which it is compared."""
        return 2 * math.sqrt(self.rounds) / self.third_plus

    @property
    def near_end(self) -> float:
        """Argument up to which the characteristic function is expanded."""
        return float(math.sqrt(2 * NEARNESS) * (self.rounds / self.fourth) ** 0.25)


def error(moments: Moments, rounds: int) -> float:
    """Bound of ``|F(x) - F1(x)|`` over all ``x``; infinite where K4 >= rounds.

    ``F`` is the distribution function of the sum of ``rounds`` independent losses with these
    moments, ``F1`` its first-order Edgeworth expansion.
    """
    loss = StandardizedMoments.of(moments, rounds)
    if loss.fourth >= rounds:
        return math.inf
    return _kernel_term(loss) + _far_term(loss) + _near_term(loss) + _middle_term(loss)


def _kernel_term(loss: StandardizedMoments) -> float:
    """Change of the expansion by smoothing, within the kernel's support and beyond it."""
    end, root = loss.largest_argument, math.sqrt(loss.rounds)
    height = math.pi * end

    def modulus(u: float) -> float:
        return math.exp(-(u**2) / 2) * (1 + loss.skewness * u**3 / (6 * root))

    def inside(u: float) -> float:
        t = u / height
        return (1 - t + (math.pi * t) ** 2 / 18) * modulus(u) / height

    outside = _integral(lambda u: modulus(u) / (math.pi * u), end, max(end, NEGLIGIBLE_FROM))
    return _integral(inside, 0, min(end, NEGLIGIBLE_FROM)) + outside


def _far_term(loss: StandardizedMoments) -> float:
    """The characteristic function of the sum where the kernel is smallest."""
    height = math.pi * loss.largest_argument
    return 67.0415 / height**4 + 1.2187 / height**2


def _near_term(loss: StandardizedMoments) -> float:
    """Sum against expansion up to `near_end`: orders up to 1/n in closed form, then an integral."""
    a, n, k4 = NEARNESS, loss.rounds, loss.fourth
    second_order = 1 / (1 - 3 * a) ** 2
    squares = 144 + 48 * a + 4 * a**2
    skewed = 96 * math.sqrt(2 * a) + 32 * a + 16 * math.sqrt(2) * a**1.5
    rest = (squares + skewed) / 576
    growth = math.exp(a**2 * (1 / 6 + 2 * rest * second_order))
    quartic = 1 / 24 + rest * second_order / 2

    def remainder(u: float) -> float:
        v = u * (k4 / n) ** 0.25
        log_square = v**5 / 6 + v**6 * (1 / 24 + 1 / 36) + v**7 / 72 + v**8 / 576
        quadratic = v**8 * quartic**2 / 2
        cross = u**7 * loss.skewness * k4 * quartic / (6 * n**1.5)
        return float(log_square * second_order / 2 + growth * (quadratic + cross))

    leading = SMOOTHING * k4 / n * (1 / 12 + second_order / 4)
    skew = SMOOTHING * growth * 8 / 72 * loss.skewness**2 / n
    tail = _integral(lambda u: remainder(u) * math.exp(-(u**2) / 2) / u, 0, loss.near_end)
    return leading + skew + SMOOTHING * tail


def _middle_term(loss: StandardizedMoments) -> float:
    """Sum against Gaussian, and Gaussian against expansion, above `near_end`."""
    root, kurtosis = math.sqrt(loss.rounds), math.sqrt(loss.fourth / loss.rounds)

    def sum_against_gaussian(u: float) -> float:
        decay = 1 - 2 * CUBIC * u * loss.third_plus / root - kurtosis
        return loss.third * u**2 * math.exp(min(-(u**2) / 2 * decay, LARGEST_GROWTH))

    def skew(u: float) -> float:
        return loss.skewness * u**2 * math.exp(-(u**2) / 2)

    start, end = loss.near_end, loss.largest_argument
    least_decay = max(1 - 4 * CUBIC - kurtosis, 0.0)  # the decay at the largest argument
    if least_decay > LEAST_DECAY:
        end = min(end, NEGLIGIBLE_FROM / math.sqrt(least_decay))
    end = max(start, end)  # nothing lies between where the expansion ends later
    both = _integral(lambda u: sum_against_gaussian(u) + skew(u), start, end)
    return SMOOTHING / 6 * both / root


def _integral(function: Callable[[float], float], low: float, high: float) -> float:
    return float(integrate.quad(function, low, high, limit=200)[0])
