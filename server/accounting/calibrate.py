"""Target epsilon to noise multiplier, always ending on the private side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from server.accounting import certify
from server.accounting.events import RoundEvent

TOLERANCE = 0.002  # the epsilon reached is at most this share below the target
CLOSE_ENOUGH = 1.0005  # ratio of a private noise multiplier to one that is not
SMALLEST, LARGEST = 1e-3, 1e7


def calibrate(
    event: RoundEvent,
    rounds: int,
    epsilon: float,
    delta: float,
    *,
    accountant: str = "pld",
    group_bound: str = "mixture",
) -> float:
    """Noise multiplier at which ``rounds`` such events have upper epsilon at most ``epsilon``.

    Args:
        event: its own noise multiplier is ignored.
        rounds: at least 1.
        epsilon: target, finite and positive.

    Raises:
        ValueError: an argument is out of range, the accountant refuses the event, or no noise
            multiplier between 1e-3 and 1e7 meets the target.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"Expected a finite epsilon > 0, got {epsilon!r}.")
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"Expected a whole number of rounds >= 1, got {rounds!r}.")
    if reason := certify.available(accountant, group_bound, event):
        raise ValueError(reason)

    def upper(noise_multiplier: float, by: str) -> float:
        noised = replace(event, noise_multiplier=noise_multiplier)
        parts = [(noised, rounds)]
        return certify.epsilon(parts, delta, accountant=by, group_bound=group_bound).upper

    guess = max(1.0, event.group_size * event.sampling_rate * math.sqrt(rounds) / epsilon)
    if accountant != "pld":  # slow: start where the quick accountant ends
        guess = private_root(lambda z: upper(z, "pld"), epsilon, guess)
    return private_root(lambda z: upper(z, accountant), epsilon, guess)


def private_root(upper: Callable[[float], float], target: float, guess: float) -> float:
    """A noise multiplier whose epsilon is at most ``target``, and by little.

    Secant steps in logarithms, kept between the largest value known not to be private and the
    smallest known to be.

    Raises:
        ValueError: none was found between 1e-3 and 1e7.
    """
    aim = math.log(target * (1 - TOLERANCE / 2))
    open_end, private_end, slope = SMALLEST, LARGEST, -1.2
    place, before = math.log(guess), None
    for _ in range(80):
        value = upper(math.exp(place))
        if value <= target:
            private_end = min(private_end, math.exp(place))
            if value >= target * (1 - TOLERANCE):
                return math.exp(place)
        else:
            open_end = max(open_end, math.exp(place))
        if private_end / open_end < CLOSE_ENOUGH:
            break
        height = math.log(value) - aim if 0 < value < math.inf else None
        if height is not None and before is not None and before[1] is not None:
            slope = min((height - before[1]) / (place - before[0]), -0.2)
        before = (place, height)
        place = _next(place, height, slope, math.log(open_end), math.log(private_end))
    if private_end < LARGEST:
        return private_end
    raise ValueError(f"Found no noise multiplier with epsilon <= {target!r} up to {LARGEST}.")


def _next(place: float, height: float | None, slope: float, lowest: float, highest: float) -> float:
    """Secant step if epsilon is a positive number and the bracket is kept, else bisection."""
    if height is not None:
        step = max(-1.5, min(1.5, -height / slope))
        if lowest < place + step < highest:
            return place + step
    return (lowest + highest) / 2
