"""Target epsilon to noise multiplier: estimated, found on a coarse grid, then certified.

Only the last search decides. It asks for the certified upper epsilon, once if the searches before
it, each started where a cheaper one ended, came close enough.
"""

from __future__ import annotations

import math
from dataclasses import replace

from userdp.server.accounting import certify
from userdp.server.accounting.edgeworth import estimate
from userdp.server.accounting.events import RoundEvent
from userdp.sim.common.root_finding import private_root

ESTIMATE_ORDER = 1  # of the expansion that guesses: higher ones go astray where rounds are few


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

    def rough(noise_multiplier: float) -> float:
        noised = replace(event, noise_multiplier=noise_multiplier)
        return certify.quick_upper([(noised, rounds)], delta, group_bound=group_bound)

    def certified(noise_multiplier: float) -> float:
        parts = [(replace(event, noise_multiplier=noise_multiplier), rounds)]
        return certify.epsilon(parts, delta, accountant=accountant, group_bound=group_bound).upper

    guess = private_root(rough, epsilon, _estimate(event, rounds, epsilon, delta))
    return private_root(certified, epsilon, guess)


def _estimate(event: RoundEvent, rounds: int, epsilon: float, delta: float) -> float:
    """A noise multiplier to start from, of the event without cap and failure."""
    plain = event.uncapped().unfailing()
    try:
        return estimate.calibrate(plain, rounds, epsilon, delta, order=ESTIMATE_ORDER)
    except (ValueError, OverflowError):  # beyond what the estimate can do
        return max(1.0, event.group_size * event.sampling_rate * math.sqrt(rounds) / epsilon)
