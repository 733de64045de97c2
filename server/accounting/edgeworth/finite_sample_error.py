"""How far a sum of equal independent losses can be from its first-order Edgeworth expansion.

Derumigny, Girard and Guyonvarch, "Explicit non-asymptotic bounds for the distance to the
first-order Edgeworth expansion" (arXiv 2101.05780), under moment conditions only: Prawitz's
smoothing inequality, with the characteristic function expanded near 0 (`_near`) and bounded further
out (`_middle`, `_far`). Closed forms are left as integrals, as Wang et al. do (arXiv 2206.04236),
which is a little sharper. The constants are those of both groups' code; moments are central, and
the skewness enters by its absolute value. Leading term: ``0.1995 K3~ / sqrt(n)``.

Symbols, for the centred loss ``L`` with standard deviation ``b`` and ``n`` rounds:
``K3 = E|L|^3/b^3``, ``lambda3 = E L^3/b^3``, ``K4 = E L^4/b^4``, ``K3~ = K3 + E|L|/b``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import integrate

from userdp.server.accounting.edgeworth.loss_moments import Moments

SMOOTHING = (
    1.0253 / math.pi
)  # Prawitz: the kernel is at most 1.0253 / (2 pi |t|), on both sides of 0
CUBIC = 0.09916191  # |char. function of a standardised L| <= exp(-t^2/2 + CUBIC * K3~ |t|^3)
NEARNESS = 0.1  # where the expansion of the logarithm is used: t^4 K4/n <= (2 NEARNESS)^2
FAR = 40.0  # standard deviations at which exp(-u^2/2) is nothing
LEAST_EXPONENT, LARGEST_GROWTH = 0.1, 600.0  # of the bound on the sum's characteristic function


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Standardised moments of one loss, and how many are added."""

    rounds: int
    skewness: float  # |lambda3|
    third: float  # K3
    third_plus: float  # K3~
    fourth: float  # K4

    @classmethod
    def of(cls, moments: Moments, rounds: int) -> Shape:
        """Of ``rounds`` independent losses with these moments."""
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
    def reach(self) -> float:
        """Largest argument of the sum's characteristic function that is looked at."""
        return 2 * math.sqrt(self.rounds) / self.third_plus

    @property
    def near_end(self) -> float:
        """Argument up to which the expansion is used."""
        return math.sqrt(2 * NEARNESS) * (self.rounds / self.fourth) ** 0.25


def error(moments: Moments, rounds: int) -> float:
    """Bound of ``|F(x) - F1(x)|`` over all ``x``; infinite where K4 >= rounds.

    ``F`` is the distribution function of the sum of ``rounds`` independent losses, ``F1`` its
    first-order Edgeworth expansion.
    """
    shape = Shape.of(moments, rounds)
    if shape.fourth >= rounds:
        return math.inf
    return _kernel(shape) + _far(shape) + _near(shape) + _middle(shape)


def _kernel(shape: Shape) -> float:
    """What smoothing does to the expansion itself, within the kernel's reach and beyond it."""
    end, root = shape.reach, math.sqrt(shape.rounds)
    height = math.pi * end

    def size(u: float) -> float:
        return math.exp(-(u**2) / 2) * (1 + shape.skewness * u**3 / (6 * root))

    def inside(u: float) -> float:
        t = u / height
        return (1 - t + (math.pi * t) ** 2 / 18) * size(u) / height

    outside = _integral(lambda u: size(u) / (math.pi * u), end, max(end, FAR))
    return _integral(inside, 0, min(end, FAR)) + outside


def _far(shape: Shape) -> float:
    """The characteristic function of the sum where the kernel is smallest."""
    height = math.pi * shape.reach
    return 67.0415 / height**4 + 1.2187 / height**2


def _near(shape: Shape) -> float:
    """Sum against expansion up to `near_end`: orders up to 1/n in closed form, then an integral."""
    a, n, k4 = NEARNESS, shape.rounds, shape.fourth
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
        cross = u**7 * shape.skewness * k4 * quartic / (6 * n**1.5)
        return log_square * second_order / 2 + growth * (quadratic + cross)

    leading = SMOOTHING * k4 / n * (1 / 12 + second_order / 4)
    skew = SMOOTHING * growth * 8 / 72 * shape.skewness**2 / n
    tail = _integral(lambda u: remainder(u) * math.exp(-(u**2) / 2) / u, 0, shape.near_end)
    return leading + skew + SMOOTHING * tail


def _middle(shape: Shape) -> float:
    """Sum against Gaussian, and Gaussian against expansion, between `near_end` and the reach."""
    root, heavy = math.sqrt(shape.rounds), math.sqrt(shape.fourth / shape.rounds)

    def sum_against_gaussian(u: float) -> float:
        exponent = 1 - 2 * CUBIC * u * shape.third_plus / root - heavy
        return shape.third * u**2 * math.exp(min(-(u**2) / 2 * exponent, LARGEST_GROWTH))

    def skew(u: float) -> float:
        return shape.skewness * u**2 * math.exp(-(u**2) / 2)

    start = shape.near_end
    flattest = max(1 - 4 * CUBIC - heavy, 0.0)  # the exponent above, at the reach
    end = min(shape.reach, FAR / math.sqrt(flattest)) if flattest > LEAST_EXPONENT else shape.reach
    end = max(start, end)  # an expansion that reaches further leaves nothing between
    both = _integral(lambda u: sum_against_gaussian(u) + skew(u), start, end)
    return SMOOTHING / 6 * both / root


def _integral(function: Callable[[float], float], low: float, high: float) -> float:
    return float(integrate.quad(function, low, high, limit=200)[0])
