"""Finds the noise multiplier for a target epsilon, always on the private side of the target.

Three searches, each started where a cheaper one ended: by an Edgeworth estimate, by the PLD on a
coarse grid, by the certified upper epsilon. Only the last one decides; it takes a single value
where the searches before it came close enough.
"""

from __future__ import annotations

import math
from dataclasses import replace

from userdp.server.accounting import accountants, certify
from userdp.server.accounting.edgeworth import estimate as edgeworth_estimate
from userdp.server.accounting.events import RoundEvent
from userdp.sim.common.root_finding import falling_root

ESTIMATE_ORDER = 1  # of the Edgeworth expansion: higher ones are far off where rounds are few


def calibrate(
    event: RoundEvent,
    rounds: int,
    epsilon: float,
    delta: float,
    *,
    accountant: str = accountants.DEFAULT,
    group_bound: str = "mixture",
) -> float:
    """Noise multiplier at which ``rounds`` such events have upper epsilon at most ``epsilon``.

    Args:
        event: its noise multiplier is ignored.
        rounds: at least 1.
        epsilon: target, finite and positive.
        delta: in [1e-11, 1).
        accountant, group_bound: as `certify.epsilon` takes them.

    Raises:
        ValueError: an argument is out of range, the accountant refuses the event or only
            estimates, or no noise multiplier between 1e-3 and 1e7 meets the target.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"Expected a finite epsilon > 0, got {epsilon!r}.")
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"Expected a whole number of rounds >= 1, got {rounds!r}.")
    if reason := certify.available(accountant, group_bound, event):
        raise ValueError(reason)

    def coarse_upper(noise_multiplier: float) -> float:
        parts = [(replace(event, noise_multiplier=noise_multiplier), rounds)]
        return certify.quick_upper(parts, delta, group_bound=group_bound)

    def certified_upper(noise_multiplier: float) -> float:
        parts = [(replace(event, noise_multiplier=noise_multiplier), rounds)]
        return certify.epsilon(parts, delta, accountant=accountant, group_bound=group_bound).upper

    first_guess = _first_guess(event, rounds, epsilon, delta)
    guess = falling_root(coarse_upper, epsilon, first_guess, argument="noise multiplier")
    return falling_root(certified_upper, epsilon, guess, argument="noise multiplier")


def _first_guess(event: RoundEvent, rounds: int, epsilon: float, delta: float) -> float:
    """A noise multiplier to start from, estimated without the event's cap and failures."""
    plain = event.uncapped().unfailing()
    try:
        return edgeworth_estimate.calibrate(plain, rounds, epsilon, delta, order=ESTIMATE_ORDER)
    except (ValueError, OverflowError):  # beyond the reach of the estimate
        return max(1.0, event.group_size * event.sampling_rate * math.sqrt(rounds) / epsilon)
