"""Epsilon from an Edgeworth expansion of the summed privacy loss: an estimate, no certificate.

``delta(eps) = P(S > eps) - e^eps Q(S > eps)`` holds for the summed loss ``S`` of all rounds under
the outputs with the user (P) and without (Q). Here both tails are replaced by the Gaussian one plus
corrections in the cumulants of ``S``, which add up over the rounds (Wang et al., arXiv 2206.04236).
The error has no sign: every order can report less than the truth, several times less where rounds
are few. Use it to steer a search, and claim what `accounting.epsilon` certifies. `interval` alone
bounds its own error; unless there are very many rounds it says nothing: (0, infinity).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

from userdp.server.accounting.edgeworth import finite_sample_error, loss_moments
from userdp.server.accounting.events import Composition, RoundEvent, merged
from userdp.sim.common.root_finding import private_root

ORDERS = (0, 1, 2, 3)
SEARCH_POINTS = 2**13 + 1
FAR = 40.0  # standard deviations beyond which neither tail matters
LARGEST_EXPONENT = 600.0  # beyond it the sign is all that counts
LOG_PEAK = -math.log(2 * math.pi) / 2  # of the standard normal density

Curve = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Direction:
    """The summed loss of one direction: ``delta = tail(shown) - e^eps tail(null)``."""

    shown: np.ndarray  # (5,) cumulants
    null: np.ndarray  # (5,) cumulants

    def epsilons(self) -> np.ndarray:
        """(SEARCH_POINTS,) from 0 to where both terms of delta have vanished."""
        shown_end = self.shown[0] + FAR * math.sqrt(self.shown[1])
        # e^eps moves the Gaussian at the null side up by its variance
        null_end = self.null[0] + self.null[1] + FAR * math.sqrt(self.null[1])
        return np.linspace(0, max(shown_end, null_end, 0), SEARCH_POINTS)

    def delta(self, epsilons: np.ndarray, order: int) -> np.ndarray:
        """Estimated delta at each epsilon; negative where the expansion fails."""
        shown = tail(epsilons, self.shown, order)
        return shown - tail(epsilons, self.null, order, log_scale=epsilons)

    def last_epsilon(self, delta: float, order: int) -> float:
        """The last epsilon whose estimated delta is ``delta``; 0 if there is none."""
        return _last_at_least(lambda eps: self.delta(eps, order), self.epsilons(), delta)


def estimate(composition: Composition, delta: float, *, order: int = 3) -> float:
    """Estimated epsilon of all events together, under add-or-remove-one-user adjacency.

    The larger of both directions, each at the last epsilon where the estimated delta falls through
    ``delta``: the expansion is not monotone in its tails, so that it may do so more than once.

    Args:
        composition: events and how often each happened; the order does not matter.
        delta: in (0, 1).
        order: 0 (central limit theorem) to 3.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(delta, order)
    parts = merged(composition)
    if not parts:
        return 0.0
    with_user, without = _summed(parts)
    ways = _both_directions(with_user, without)
    return max(way.last_epsilon(delta, order) for way in ways)


def interval(event: RoundEvent, rounds: int, delta: float) -> tuple[float, float]:
    """Lower and upper epsilon of ``rounds`` such events, by a bound on the error of order 1.

    An end that says nothing is 0 or infinite; both are, unless the rounds are very many or delta is
    large: the error on the null side counts ``e^eps`` times, the other one must be below delta by
    itself. The bound's constants are taken from published code (`finite_sample`): no certificate.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(delta, 1)
    _check_rounds(rounds)
    found = loss_moments.of_round(event)
    error_with = finite_sample_error.error(found.with_user, rounds)
    error_without = finite_sample_error.error(found.without, rounds)
    if not math.isfinite(error_with + error_without):
        return 0.0, math.inf
    with_user, without = rounds * found.with_user.cumulants(), rounds * found.without.cumulants()
    removal, addition = _both_directions(with_user, without)
    ends = [
        _bounds(removal, error_with, error_without, delta),
        _bounds(addition, error_without, error_with, delta),
    ]
    return max(lower for lower, _ in ends), max(upper for _, upper in ends)


def calibrate(
    event: RoundEvent, rounds: int, epsilon: float, delta: float, *, order: int = 3
) -> float:
    """Noise multiplier at which the estimate of ``rounds`` such events is just below ``epsilon``.

    For steering a search only: what this noise costs is `accounting.epsilon`'s to say, and it is
    often more.

    Args:
        event: its own noise multiplier is ignored.

    Raises:
        ValueError: an argument is out of range, or no noise multiplier meets the target.
    """
    _check(delta, order)
    _check_rounds(rounds)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"Expected a finite epsilon > 0, got {epsilon!r}.")

    def estimated(noise_multiplier: float) -> float:
        noised = replace(event, noise_multiplier=noise_multiplier)
        return estimate([(noised, rounds)], delta, order=order)

    guess = max(1.0, event.group_size * event.sampling_rate * math.sqrt(rounds) / epsilon)
    return private_root(estimated, epsilon, guess)


def tail(
    x: np.ndarray, cumulants: np.ndarray, order: int, log_scale: np.ndarray | float = 0.0
) -> np.ndarray:
    """``exp(log_scale) * (1 - F(x))``, F the Edgeworth expansion with these cumulants (5,).

    With ``y = (x - k1)/s``, ``s^2 = k2``, ``g_j = k_j / s^j`` and the probabilists' Hermite
    polynomials: ``1 - F = Q(y) + phi(y) * correction``, one line of the correction to an order.
    Where that is negative it counts as 0: multiplied by ``-e^eps``, it would otherwise make odd
    orders report a delta, in the rarer direction, that nothing stands for.
    """
    deviation = math.sqrt(cumulants[1])
    y = (x - cumulants[0]) / deviation
    g3, g4, g5 = (float(cumulants[j - 1]) / deviation**j for j in (3, 4, 5))
    he = special.eval_hermitenorm
    terms = [
        g3 / 6 * he(2, y),
        g4 / 24 * he(3, y) + g3**2 / 72 * he(5, y),
        g5 / 120 * he(4, y) + g3 * g4 / 144 * he(6, y) + g3**3 / 1296 * he(8, y),
    ]
    correction = sum(terms[:order], np.zeros_like(y))
    log_tail = special.log_ndtr(-y)
    hazard = np.exp(LOG_PEAK - y**2 / 2 - log_tail)
    scale = np.exp(np.minimum(log_scale + log_tail, LARGEST_EXPONENT))
    return scale * np.maximum(1 + hazard * correction, 0)


def _summed(parts: Composition) -> tuple[np.ndarray, np.ndarray]:
    """Cumulants (5,) of all losses together, with the user and without."""
    rounds = [(loss_moments.of_round(event), count) for event, count in parts]
    with_user = sum((n * found.with_user.cumulants() for found, n in rounds), np.zeros(5))
    without = sum((n * found.without.cumulants() for found, n in rounds), np.zeros(5))
    return with_user, without


def _both_directions(with_user: np.ndarray, without: np.ndarray) -> tuple[Direction, Direction]:
    """Removal of the user, and addition, whose loss is ``log Q/P``."""
    removal = Direction(shown=with_user, null=without)
    addition = Direction(shown=loss_moments.negated(without), null=loss_moments.negated(with_user))
    return removal, addition


def _bounds(
    way: Direction, error_shown: float, error_null: float, delta: float
) -> tuple[float, float]:
    """Lower and upper epsilon if the two tails are wrong by at most these errors."""

    def least(epsilons: np.ndarray) -> np.ndarray:
        shown = np.maximum(tail(epsilons, way.shown, 1) - error_shown, 0)
        null = np.minimum(tail(epsilons, way.null, 1) + error_null, 1)
        return shown - _exp(epsilons) * null

    def most(epsilons: np.ndarray) -> np.ndarray:
        shown = np.minimum(tail(epsilons, way.shown, 1) + error_shown, 1)
        null = np.maximum(tail(epsilons, way.null, 1) - error_null, 0)
        return shown - _exp(epsilons) * null

    epsilons = way.epsilons()
    return _last_at_least(least, epsilons, delta), _first_at_most(most, epsilons, delta)


def _exp(epsilons: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(epsilons, LARGEST_EXPONENT))


def _last_at_least(curve: Curve, epsilons: np.ndarray, delta: float) -> float:
    """Largest epsilon at which the curve reaches ``delta``; 0 if it never does."""
    reached = np.flatnonzero(curve(epsilons) >= delta)
    if not len(reached):
        return 0.0
    return _crossing(curve, epsilons, int(reached[-1]), delta)


def _first_at_most(curve: Curve, epsilons: np.ndarray, delta: float) -> float:
    """Least epsilon at which the curve is down to ``delta``; infinite if it never is."""
    down = np.flatnonzero(curve(epsilons) <= delta)
    if not len(down):
        return math.inf
    return _crossing(curve, epsilons, int(down[0]) - 1, delta) if down[0] else 0.0


def _crossing(curve: Curve, epsilons: np.ndarray, place: int, delta: float) -> float:
    """Where the curve falls through ``delta`` between a grid point and the next."""

    def excess(epsilon: float) -> float:
        return float(curve(np.array(epsilon))) - delta

    if excess(epsilons[place]) == 0:
        return float(epsilons[place])
    return optimize.brentq(excess, epsilons[place], epsilons[place + 1])


def _check(delta: float, order: int) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"Expected 0 < delta < 1, got {delta!r}.")
    if order not in ORDERS:
        raise ValueError(f"Expected order in {ORDERS}, got {order!r}.")


def _check_rounds(rounds: int) -> None:
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"Expected a whole number of rounds >= 1, got {rounds!r}.")
