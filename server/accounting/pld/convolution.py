"""Epsilon of many rounds: sums their losses by Fourier transforms, with bounded numerical error.

The masses are tilted by ``exp(theta * loss)`` before the Fourier transform (Esscher), with a
``theta`` at which the typical value of the sum is near the wanted epsilon. Mass that wraps around
the transform's window, and round-off, are then small in proportion to delta, however small delta
is: an error ``e`` of the tilted sum moves ``delta(eps)`` by at most
``e * exp(log_moment(theta) - theta * eps)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from userdp.server.accounting.events import FloatArray
from userdp.server.accounting.pld import exponential_tilt
from userdp.server.accounting.pld.exponential_tilt import Losses, Tilt
from userdp.server.accounting.pld.loss_grid import LossGrid

Side = Literal["lower", "upper"]

NEGLIGIBLE_SHARE = 1e-6  # of delta: what cropping the losses' ends may move it
SLACK_SHARE = 1e-4  # of delta: numerical error that is not worth a second transform
OUTSIDE = 1e-10  # tilted mass allowed on either side of the window
ROUND_OFF = 2.0**-43  # a round: of the transforms, and relative error of the masses
VANISHING = 1e-30  # modulus of a Fourier coefficient that is left out
LARGEST_EXPONENT = 600.0
WORK_LIMIT = 2**22  # points of one transform


class TooFineError(ArithmeticError):
    """The step is too small for the summed loss to fit into one transform."""


def window(losses: Losses, at: Tilt) -> tuple[float, float]:
    """Summed losses around 0 beyond which lies tilted mass of at most ``OUTSIDE`` (Chernoff)."""
    deviation = math.sqrt(at.variance) + losses[0][0].step
    log_outside = -math.log(OUTSIDE)
    low, high = -math.inf, math.inf
    for deviations in (1, 2, 4, 6, 8, 12):
        change = deviations / deviation
        rise = exponential_tilt.log_moment(losses, at.theta + change) - at.log_moment
        fall = exponential_tilt.log_moment(losses, at.theta - change) - at.log_moment
        high = min(high, (rise + log_outside) / change)
        low = max(low, -(fall + log_outside) / change)
    return min(low, 0.0), max(high, 0.0)  # 0 is the smallest epsilon


def epsilon(losses: Losses, delta: float, side: Side) -> float:
    """Bound of the epsilon at ``delta`` when these losses are drawn independently and summed.

    Args:
        losses: grids that share one step; below the truth for "lower", above for "upper".
        delta: in (0, 1).
        side: the certified side. A lower bound may be 0, an upper one infinite.

    Raises:
        TooFineError: the summed loss has too many grid points for one transform.
    """
    negligible = NEGLIGIBLE_SHARE * delta / sum(count for _, count in losses)
    losses = [(cropped(grid, negligible, side), count) for grid, count in losses]
    infinite = -math.expm1(sum(n * math.log1p(-grid.infinite) for grid, n in losses))
    delta = delta - infinite if side == "upper" else delta
    if delta <= 0:
        return math.inf
    at = exponential_tilt.saddle(losses, delta)
    bound, slack = bound_at(losses, at, delta, side)
    if slack > SLACK_SHARE * delta:  # a skewed sum: tilt towards the epsilon just computed
        retilted = exponential_tilt.with_mean(losses, bound, at.theta)
        second_bound, _ = bound_at(losses, retilted, delta, side)
        bound = max(bound, second_bound) if side == "lower" else min(bound, second_bound)
    return bound


def bound_at(losses: Losses, at: Tilt, delta: float, side: Side) -> tuple[float, float]:
    """Certified epsilon by one tilt, and the numerical error of delta there."""
    values, masses, error = convolution(losses, at)
    curve = DeltaCurve.of(values, masses, at, error if side == "upper" else -error)
    if side == "lower":
        value = curve.last_at_least(delta)
    else:
        chernoff = (at.log_moment - math.log(delta)) / at.theta
        value = max(0.0, min(chernoff, curve.first_at_most(delta)))
    return value, error * math.exp(min(at.log_moment - at.theta * value, LARGEST_EXPONENT))


def cropped(grid: LossGrid, negligible: float, side: Side) -> LossGrid:
    """The grid without its two ends, of mass at most ``negligible`` each.

    For a lower bound their masses are dropped, for an upper one they move to larger losses.
    """
    masses = grid.masses
    first = int(np.argmax(np.cumsum(masses) > negligible))
    last = len(masses) - int(np.argmax(np.cumsum(masses[::-1]) > negligible))
    middle = masses[first:last].copy()
    infinite = 0.0
    if side == "upper":
        middle[0] += masses[:first].sum()
        infinite = grid.infinite + float(masses[last:].sum())
    origin = grid.origin + first * grid.step
    return LossGrid(masses=middle, origin=origin, step=grid.step, infinite=infinite)


def convolution(losses: Losses, at: Tilt) -> tuple[FloatArray, FloatArray, float]:
    """Distribution of the summed loss within the window.

    Returns:
        Losses (points,), their tilted probabilities (points,), and a bound on the total error of
        the probabilities.

    Raises:
        TooFineError: the window has too many grid points for one transform.
    """
    step = losses[0][0].step
    origin = sum(grid.origin * count for grid, count in losses)
    low, high = window(losses, at)
    first = math.floor((low - origin) / step)
    size = fft.next_fast_len(math.ceil((high - low) / step) + 2, real=True)
    if size > WORK_LIMIT:
        raise TooFineError(f"Expected at most {WORK_LIMIT} points of the summed loss, got {size}.")
    spectrum = np.ones(size // 2 + 1, complex)
    for grid, count in losses:
        masses, _ = exponential_tilt.tilted_masses(grid, at.theta)
        folded = np.bincount(np.arange(len(masses)) % size, weights=masses, minlength=size)
        spectrum *= power(fft.rfft(folded), count)
    masses = np.roll(fft.irfft(spectrum, size), -(first % size))
    rounds = sum(count for _, count in losses)
    round_off = ROUND_OFF * (rounds + 16) * math.sqrt(size) * float(np.linalg.norm(masses))
    return origin + step * (first + np.arange(size)), masses, round_off + 2 * OUTSIDE


def power(spectrum: NDArray[np.complex128], count: int) -> NDArray[np.complex128]:
    """The coefficients (points,) to this power; results below ``VANISHING`` are set to 0.

    The window's masses then move by at most ``VANISHING`` each, which ``ROUND_OFF`` far exceeds.
    """
    result = np.zeros_like(spectrum)
    remaining = spectrum.real**2 + spectrum.imag**2 > VANISHING ** (2 / count)
    result[remaining] = spectrum[remaining] ** count
    return result


@dataclass(frozen=True, kw_only=True)
class DeltaCurve:
    """delta as a function of epsilon, with the numerical error counted on the certified side.

    Between two neighbouring losses ``delta(eps) = tail - exp(eps - centre) * weighted_tail``.
    """

    values: FloatArray  # (points,) epsilon: the losses of the window
    tail: FloatArray  # (points,) probability of a larger loss, error counted
    weighted_tail: FloatArray  # (points,) the same weighted by exp(centre - loss)
    centre: float

    @classmethod
    def of(cls, values: FloatArray, masses: FloatArray, at: Tilt, error: float) -> DeltaCurve:
        """From the tilted masses of the window, where the exponentials do not overflow.

        Args:
            values, masses: (points,) losses of the window and their tilted probabilities.
            at: the tilt.
            error: bound of the masses' total error; negative for a lower bound of delta.
        """
        near = np.abs(values - at.mean) <= LARGEST_EXPONENT / (at.theta + 1)
        first, last = np.flatnonzero(near)[[0, -1]]
        above = values[first:] - at.mean
        scale = math.exp(at.log_moment - at.theta * at.mean)

        def tail_sums(rate: float) -> FloatArray:
            sums = np.cumsum((masses[first:] * scale * np.exp(-rate * above))[::-1])[::-1]
            return np.append(sums[1:], 0.0)[: last - first + 1]

        slack = error * scale * np.exp(-at.theta * above[: last - first + 1])
        return cls(
            values=values[near],
            tail=tail_sums(at.theta) + slack,
            weighted_tail=tail_sums(at.theta + 1),
            centre=at.mean,
        )

    def deltas(self) -> FloatArray:
        """(points,) delta at each epsilon of the window."""
        values: FloatArray = self.tail - np.exp(self.values - self.centre) * self.weighted_tail
        return values

    def crossing(self, index: int, delta: float) -> float:
        """Epsilon at which the curve between a loss and the next is ``delta``; -inf if nowhere."""
        tail, weighted_tail = self.tail[index], self.weighted_tail[index]
        if not (tail > delta and weighted_tail > 0):
            return -math.inf
        return float(self.centre + math.log((tail - delta) / weighted_tail))

    def last_at_least(self, delta: float) -> float:
        """Largest epsilon in the window at which delta is certainly reached; 0 if there is none."""
        reached = np.flatnonzero(self.deltas() >= delta)
        if not len(reached):
            return 0.0
        index = int(reached[-1])
        following = self.values[min(index + 1, len(self.values) - 1)]
        crossing = min(self.crossing(index, delta), float(following))
        return max(0.0, float(self.values[index]), crossing)

    def first_at_most(self, delta: float) -> float:
        """Smallest epsilon in the window at which delta is certainly not exceeded; inf if none."""
        within = np.flatnonzero(self.deltas() <= delta)
        if not len(within):
            return math.inf
        index = int(within[0])
        if index == 0:
            return float(self.values[0])
        crossing = max(self.crossing(index - 1, delta), float(self.values[index - 1]))
        return min(float(self.values[index]), crossing)
