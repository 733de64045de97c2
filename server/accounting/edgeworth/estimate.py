"""Estimates epsilon by an Edgeworth expansion of the summed privacy loss, without a guarantee.

``delta(eps) = P(S > eps) - e^eps Q(S > eps)`` holds for the summed loss ``S`` of all rounds under
the outputs with the user (P) and without (Q). Here both tails are replaced by the Gaussian one plus
corrections in the cumulants of ``S``, which add up over the rounds (Wang et al., arXiv 2206.04236).
The error can have either sign: every order can report less than the truth, several times less where
rounds are few. Use it to guide a search, and claim what `accounting.epsilon` certifies. Only
`interval` bounds its error; unless there are very many rounds it is (0, infinity).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

from userdp.server.accounting.edgeworth import finite_sample_error, loss_moments
from userdp.server.accounting.events import Composition, FloatArray, RoundEvent, merged
from userdp.sim.common.root_finding import falling_root

ORDERS = (0, 1, 2, 3)
SEARCH_POINTS = 2**13 + 1
TAIL_DEVIATIONS = 40.0  # standard deviations beyond which both tails are negligible
LARGEST_EXPONENT = 600.0  # larger values of exp() are only compared with 0
LOG_PEAK = -math.log(2 * math.pi) / 2  # log of the standard normal density at 0

Curve = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, kw_only=True)
class Direction:
    """The summed loss of one direction: ``delta = tail(alternative) - e^eps tail(null)``.

    For the user's removal the alternative is the output with the user (P) and the null the one
    without (Q), of loss ``log P/Q``; for addition it is the other way round.
    """

    alternative: FloatArray  # (5,) cumulants
    null: FloatArray  # (5,) cumulants

    def epsilons(self) -> FloatArray:
        """(SEARCH_POINTS,) from 0 to where both terms of delta have vanished."""
        alternative_end = self.alternative[0] + TAIL_DEVIATIONS * math.sqrt(self.alternative[1])
        # e^eps moves the Gaussian of the null up by its variance.
        null_end = self.null[0] + self.null[1] + TAIL_DEVIATIONS * math.sqrt(self.null[1])
        return np.linspace(0, max(alternative_end, null_end, 0), SEARCH_POINTS)

    def delta(self, epsilons: FloatArray, order: int) -> FloatArray:
        """Estimated delta at ``epsilons``, of any shape; negative where the expansion fails."""
        alternative = tail(epsilons, self.alternative, order)
        return alternative - tail(epsilons, self.null, order, log_scale=epsilons)

    def last_epsilon(self, delta: float, order: int) -> float:
        """Largest epsilon whose estimated delta is ``delta``; 0 if there is none."""
        return _last_at_least(lambda eps: self.delta(eps, order), self.epsilons(), delta)


def estimate(composition: Composition, delta: float, *, order: int = 3) -> float:
    """Estimated epsilon of all events together, under add-or-remove-one-user adjacency.

    The larger of both directions, each at the largest epsilon where the estimated delta crosses
    ``delta``: the expansion is not monotone in its tails, so that there may be several.

    Args:
        composition: events and how often each happened; the order does not matter.
        delta: in (0, 1).
        order: 0 (central limit theorem) to 3.

    Raises:
        ValueError: an argument is out of range, or an event is capped or may fail.
    """
    _check(delta, order)
    parts = merged(composition)
    if not parts:
        return 0.0
    with_user, without = _summed(parts)
    directions = _both_directions(with_user, without)
    return max(direction.last_epsilon(delta, order) for direction in directions)


def interval(event: RoundEvent, rounds: int, delta: float) -> tuple[float, float]:
    """Lower and upper epsilon of ``rounds`` such events, by a bound on the error of order 1.

    An end without information is 0 or infinite; both are, unless the rounds are very many or delta
    is large: the null's error counts ``e^eps`` times, and the alternative's must be below delta by
    itself. Constants of the bound come from published code (`finite_sample_error`), so that this is
    no certificate.

    Raises:
        ValueError: an argument is out of range, or the event is capped or may fail.
    """
    _check(delta, 1)
    _check_rounds(rounds)
    moments = loss_moments.of_round(event)
    error_with = finite_sample_error.error(moments.with_user, rounds)
    error_without = finite_sample_error.error(moments.without, rounds)
    if not math.isfinite(error_with + error_without):
        return 0.0, math.inf
    removal, addition = _both_directions(
        rounds * moments.with_user.cumulants(), rounds * moments.without.cumulants()
    )
    ends = [
        _bounds(removal, error_with, error_without, delta),
        _bounds(addition, error_without, error_with, delta),
    ]
    return max(lower for lower, _ in ends), max(upper for _, upper in ends)


def calibrate(
    event: RoundEvent, rounds: int, epsilon: float, delta: float, *, order: int = 3
) -> float:
    """Noise multiplier at which the estimate of ``rounds`` such events is just below ``epsilon``.

    It guides a search only: `accounting.epsilon` certifies the cost of this noise, which is often
    higher than ``epsilon``.

    Args:
        event: its noise multiplier is ignored.
        rounds: at least 1.
        epsilon: target, finite and positive.
        delta: in (0, 1).
        order: 0 (central limit theorem) to 3.

    Raises:
        ValueError: an argument is out of range, the event is capped or may fail, or no noise
            multiplier meets the target.
    """
    _check(delta, order)
    _check_rounds(rounds)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"Expected a finite epsilon > 0, got {epsilon!r}.")

    def estimated_epsilon(noise_multiplier: float) -> float:
        noised = replace(event, noise_multiplier=noise_multiplier)
        return estimate([(noised, rounds)], delta, order=order)

    guess = max(1.0, event.group_size * event.sampling_rate * math.sqrt(rounds) / epsilon)
    return falling_root(estimated_epsilon, epsilon, guess, argument="noise multiplier")


def tail(
    x: FloatArray,
    cumulants: FloatArray,
    order: int,
    log_scale: FloatArray | float = 0.0,
) -> FloatArray:
    """``exp(log_scale) * (1 - F(x))``, F the Edgeworth expansion with these cumulants.

    With ``y = (x - k1)/s``, ``s^2 = k2``, ``g_j = k_j / s^j`` and the probabilists' Hermite
    polynomials: ``1 - F = Q(y) + phi(y) * correction``, one line of the correction to an order.
    Where that is negative it counts as 0: multiplied by ``-e^eps``, it would otherwise make odd
    orders report a delta, in the rarer direction, that has no meaning.

    Args:
        x: points of any shape, which is also that of the result.
        cumulants: (5,) of order 1 to 5.
        order: 0 (central limit theorem) to 3.
        log_scale: of the shape of ``x`` or a number.
    """
    deviation = math.sqrt(cumulants[1])
    y = (x - cumulants[0]) / deviation
    g3, g4, g5 = (float(cumulants[j - 1]) / deviation**j for j in (3, 4, 5))
    hermite = special.eval_hermitenorm
    terms = [
        g3 / 6 * hermite(2, y),
        g4 / 24 * hermite(3, y) + g3**2 / 72 * hermite(5, y),
        g5 / 120 * hermite(4, y) + g3 * g4 / 144 * hermite(6, y) + g3**3 / 1296 * hermite(8, y),
    ]
    correction = sum(terms[:order], np.zeros_like(y))
    log_tail = special.log_ndtr(-y)
    hazard = np.exp(LOG_PEAK - y**2 / 2 - log_tail)
    scale = np.exp(np.minimum(log_scale + log_tail, LARGEST_EXPONENT))
    scaled_tail: FloatArray = scale * np.maximum(1 + hazard * correction, 0)
    return scaled_tail


def _summed(parts: Composition) -> tuple[FloatArray, FloatArray]:
    """Cumulants (5,) of all losses together, with the user and without."""
    rounds = [(loss_moments.of_round(event), count) for event, count in parts]
    with_user = sum((n * moments.with_user.cumulants() for moments, n in rounds), np.zeros(5))
    without = sum((n * moments.without.cumulants() for moments, n in rounds), np.zeros(5))
    return with_user, without


def _both_directions(with_user: FloatArray, without: FloatArray) -> tuple[Direction, Direction]:
    """Removal of the user, and addition, whose loss is ``log Q/P``."""
    removal = Direction(alternative=with_user, null=without)
    addition = Direction(
        alternative=loss_moments.negated(without), null=loss_moments.negated(with_user)
    )
    return removal, addition


def _bounds(
    direction: Direction, error_alternative: float, error_null: float, delta: float
) -> tuple[float, float]:
    """Lower and upper epsilon if the two tails are wrong by at most these errors."""

    def least_delta(epsilons: FloatArray) -> FloatArray:
        alternative = np.maximum(tail(epsilons, direction.alternative, 1) - error_alternative, 0)
        null = np.minimum(tail(epsilons, direction.null, 1) + error_null, 1)
        return alternative - _exp(epsilons) * null

    def largest_delta(epsilons: FloatArray) -> FloatArray:
        alternative = np.minimum(tail(epsilons, direction.alternative, 1) + error_alternative, 1)
        null = np.maximum(tail(epsilons, direction.null, 1) - error_null, 0)
        return alternative - _exp(epsilons) * null

    epsilons = direction.epsilons()
    lower = _last_at_least(least_delta, epsilons, delta)
    return lower, _first_at_most(largest_delta, epsilons, delta)


def _exp(epsilons: FloatArray) -> FloatArray:
    return np.exp(np.minimum(epsilons, LARGEST_EXPONENT))


def _last_at_least(curve: Curve, epsilons: FloatArray, delta: float) -> float:
    """Largest epsilon at which the curve reaches ``delta``; 0 if it never does."""
    reached = np.flatnonzero(curve(epsilons) >= delta)
    if not len(reached):
        return 0.0
    return _crossing(curve, epsilons, int(reached[-1]), delta)


def _first_at_most(curve: Curve, epsilons: FloatArray, delta: float) -> float:
    """Smallest epsilon at which the curve is at most ``delta``; infinite if it never is."""
    within = np.flatnonzero(curve(epsilons) <= delta)
    if not len(within):
        return math.inf
    return _crossing(curve, epsilons, int(within[0]) - 1, delta) if within[0] else 0.0


def _crossing(curve: Curve, epsilons: FloatArray, index: int, delta: float) -> float:
    """Epsilon between a grid point and the next at which the curve is ``delta``."""

    def excess(epsilon: float) -> float:
        return float(curve(np.array(epsilon))) - delta

    if excess(epsilons[index]) == 0:
        return float(epsilons[index])
    return float(optimize.brentq(excess, epsilons[index], epsilons[index + 1]))


def _check(delta: float, order: int) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"Expected 0 < delta < 1, got {delta!r}.")
    if order not in ORDERS:
        raise ValueError(f"Expected order in {ORDERS}, got {order!r}.")


def _check_rounds(rounds: int) -> None:
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"Expected a whole number of rounds >= 1, got {rounds!r}.")
