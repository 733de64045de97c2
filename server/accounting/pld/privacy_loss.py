"""The privacy loss of one round as a function of its output, without discretisation.

Along the worst direction the output is ``P = sum_i hits(i) N(i, z^2)`` with the user and
``Q = N(0, z^2)`` without, in units of the clip norm.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from userdp.server.accounting.events import FloatArray, RoundEvent


def privacy_loss(event: RoundEvent, x: FloatArray) -> FloatArray:
    """Loss ``log P(x)/Q(x)`` at outputs ``x`` of any shape, in units of the clip norm."""
    variance = event.noise_multiplier**2
    loss = np.full(np.shape(x), -math.inf)
    for i, weight in enumerate(event.hits()):
        if weight > 0:
            loss = np.logaddexp(loss, math.log(weight) + i * (2 * x - i) / (2 * variance))
    return loss


def least_loss(event: RoundEvent) -> float:
    """Infimum of the loss: the log of the probability that no slot of the user is sampled."""
    if event.sampling_rate == 1:
        return -math.inf
    return event.group_size * math.log1p(-event.sampling_rate)


def support(event: RoundEvent, tail: float) -> tuple[float, float]:
    """Outputs below and above which P and Q have mass of at most about ``tail`` each."""
    z, hits = event.noise_multiplier, event.hits()
    centres, reach = np.arange(len(hits)), -special.ndtri(tail)

    def excess(x: float) -> float:
        return float(hits @ special.ndtr((centres - x) / z)) - tail

    least_centre = len(hits) - 1 if event.sampling_rate == 1 else 0
    high = optimize.brentq(excess, (reach - 1) * z, len(hits) + (reach + 1) * z)
    return least_centre - reach * z, max(high, least_centre + reach * z)


def loss_deviation(event: RoundEvent) -> float:
    """Standard deviation of the loss with the user, by quadrature; it only guides the grid."""
    low, high = support(event, 1e-25)
    x = np.linspace(low, high, 4001)
    loss, z = privacy_loss(event, x), event.noise_multiplier
    weight = np.exp(loss - x**2 / (2 * z**2))
    mean = np.average(loss, weights=weight)
    return math.sqrt(np.average((loss - mean) ** 2, weights=weight))


def loss_range(event: RoundEvent, tail: float) -> float:
    """Difference between the largest and the smallest loss that a grid has to cover."""
    ends = privacy_loss(event, np.array(support(event, tail)))
    return float(ends[1] - ends[0])
