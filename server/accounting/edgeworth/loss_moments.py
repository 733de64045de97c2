"""Central moments and cumulants of one round's privacy loss, by quadrature over the outputs.

The loss is ``L(x) = log P(x)/Q(x)``: P is the output with the user, a mixture over how many of the
user's slots are sampled, and Q the output without. Moments are taken about the mean: computed from
raw ones, cumulants of the fourth and fifth order are lost to cancellation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from userdp.server.accounting.events import FloatArray, RoundEvent
from userdp.server.accounting.pld import privacy_loss

TAIL = 1e-30  # mass of P and of Q beyond the quadrature's ends
STEPS_PER_NOISE = 64  # points in one standard deviation of the noise
LEAST_DEVIATION = 1e-11  # of a loss; below this, rounding errors spoil its moments


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments of a privacy loss ``L`` about its mean."""

    mean: float
    central: tuple[float, float, float, float]  # E (L - mean)^j for j = 2, 3, 4, 5
    absolute: tuple[float, float]  # E |L - mean|^j for j = 1, 3

    def cumulants(self) -> FloatArray:
        """(5,) cumulants of order 1 to 5; those of independent losses add up."""
        second, third, fourth, fifth = self.central
        return np.array(
            [self.mean, second, third, fourth - 3 * second**2, fifth - 10 * third * second]
        )


@dataclass(frozen=True, kw_only=True)
class RoundMoments:
    """Moments of the loss ``log P/Q`` under the output with the user (P) and without (Q)."""

    with_user: Moments
    without: Moments


def of_round(event: RoundEvent) -> RoundMoments:
    """Moments of a round's loss, with the user and without.

    Raises:
        ValueError: the loss is too small for float64 to hold its moments, or the event is capped or
            may fail.
    """
    low, high = privacy_loss.support(event, TAIL)
    points = math.ceil((high - low) / event.noise_multiplier * STEPS_PER_NOISE) + 1
    x = np.linspace(low, high, points)
    loss = privacy_loss.privacy_loss(event, x)
    log_without = -((x / event.noise_multiplier) ** 2) / 2
    moments = RoundMoments(
        with_user=_weighted(loss, np.exp(loss + log_without)),
        without=_weighted(loss, np.exp(log_without)),
    )
    if not moments.without.central[0] > LEAST_DEVIATION**2:
        raise ValueError(f"The privacy loss of {event} is too small to compute its moments.")
    return moments


def negated(cumulants: FloatArray) -> FloatArray:
    """(5,) cumulants of ``-L`` from those of ``L``: the odd orders change their sign."""
    return np.array([-1.0, 1.0, -1.0, 1.0, -1.0]) * cumulants


def _weighted(loss: FloatArray, weight: FloatArray) -> Moments:
    """Moments of losses at the points of a uniform grid, by the trapezoidal rule.

    Its error is far below rounding, since the densities vanish at both ends of the grid.

    Args:
        loss: (points,).
        weight: (points,) densities up to a factor.
    """
    share = weight / weight.sum()
    mean = float(share @ loss)
    centred = loss - mean
    second, third, fourth, fifth = (float(share @ centred**j) for j in (2, 3, 4, 5))
    return Moments(
        mean=mean,
        central=(second, third, fourth, fifth),
        absolute=(float(share @ np.abs(centred)), float(share @ np.abs(centred) ** 3)),
    )
