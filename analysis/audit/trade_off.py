"""Which noise multipliers of a declared event contradict measured error rates.

A test that decides between "canary in" and "canary out" has false positives a and false negatives
b. For every noise multiplier z the declared event allows only pairs with ``b >= f_z(a)``, where f_z
is its trade-off function (Dong, Roth, Su, arXiv 1905.02383). Measured rates below the curve of z
exclude z and every larger noise, so the noise is at most the least excluded z, and epsilon of the
whole run at least that of this z (Nasr et al., arXiv 2302.07956, section 4).

For plain events f_z is exact. For others it is the envelope of the tangents that their certified
(epsilon, delta) give, which never exceeds the true curve of the certified bound.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
from scipy import special

from userdp.server import accounting
from userdp.server.accounting import RoundEvent
from userdp.server.accounting.events.round_event import FloatArray

_DELTAS = (1e-4, 1e-2, 0.1)  # of the tangents
_GAP = 0.05  # relative, of their certified epsilon
_RANGE = 16.0  # noise multipliers within this factor of the declared one are told apart
_STEPS, _CAPPED_STEPS = 12, 7  # halvings of that range, in the logarithm: to 0.2 %, and to 5 %


def curve(event: RoundEvent, false_positives: FloatArray) -> FloatArray:
    """f_z: the least rate of false negatives at each of these rates of false positives.

    Args:
        event: with noise multiplier z.
        false_positives: (rates,) in [0, 1].

    Returns:
        (rates,) in [0, 1].
    """
    plain = event.unfailing()
    if plain.cohort_cap is not None:
        return _tangents(event, false_positives)
    a = np.minimum(false_positives + event.failure_probability, 1.0)
    quantiles = special.ndtri(1 - a)
    hits = plain.hits()
    shifts = np.arange(len(hits)) / plain.noise_multiplier
    misses = special.ndtr(quantiles[..., None] - shifts) @ hits
    return np.asarray(np.maximum(misses - event.failure_probability, 0.0))


def _tangents(event: RoundEvent, false_positives: FloatArray) -> FloatArray:
    lines = _certified(event)
    a = np.asarray(false_positives, float)
    bounds = [np.zeros_like(a)]
    for epsilon, delta in lines:
        bounds.append(1 - delta - math.exp(epsilon) * a)
        bounds.append(math.exp(-epsilon) * (1 - delta - a))
    envelope: FloatArray = np.max(bounds, axis=0)
    return envelope


@functools.lru_cache(maxsize=512)
def _certified(event: RoundEvent) -> tuple[tuple[float, float], ...]:
    """(certified epsilon, delta) of one event at several deltas."""
    pairs = []
    for delta in _DELTAS:
        upper = accounting.epsilon([(event, 1)], delta, relative_gap=_GAP).upper
        pairs.append((min(upper, 700.0), delta))
    return tuple(pairs)


def excluded_noise(event: RoundEvent, false_positives: float, false_negatives: float) -> float:
    """The least noise multiplier that bounds of the error rates exclude; infinite if none.

    Args:
        event: declared, of one round.
        false_positives: upper bound of the rate.
        false_negatives: upper bound of the rate.
    """

    def excluded(z: float) -> bool:
        at = replace(event, noise_multiplier=z)
        return bool(false_negatives < curve(at, np.array([false_positives]))[0])

    declared = event.noise_multiplier
    low, high = declared / _RANGE, declared * _RANGE
    if not excluded(high):
        return math.inf
    if excluded(low):
        return low
    for _ in range(_STEPS if event.cohort_cap is None else _CAPPED_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if excluded(middle) else (middle, high)
    return high


def epsilon_at(event: RoundEvent, noise: float, events: int, delta: float) -> float:
    """Certified lower epsilon of ``events`` such events with this noise; 0 for infinite noise.

    Where accounting fails for hardly any noise, the value at the next larger noise that it accepts,
    which is a lower bound too.
    """
    while math.isfinite(noise) and noise < event.noise_multiplier * _RANGE:
        at = replace(event.unfailing(), noise_multiplier=noise)
        try:
            value = accounting.epsilon([(at, events)], delta).lower
        except (ValueError, ArithmeticError):
            value = math.inf
        if math.isfinite(value):
            return value
        noise *= 1.5
    return 0.0
