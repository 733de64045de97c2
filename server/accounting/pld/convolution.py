"""Many rounds on the grid: epsilon of the summed losses at a delta, with bounded numerical error.

The masses are tilted by ``exp(theta * loss)`` before the Fourier transform (Esscher), with a
``theta`` at which the sum's typical value is near the epsilon asked for. What wraps around the
transform's window and what round-off adds is then small in proportion to delta, however small delta
is: an error ``e`` of the tilted sum moves ``delta(eps)`` by at most
``e * exp(log_moment(theta) - theta * eps)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import fft

from userdp.server.accounting.pld import exponential_tilt
from userdp.server.accounting.pld.exponential_tilt import Losses, Tilt
from userdp.server.accounting.pld.loss_grid import LossGrid

Side = Literal["lower", "upper"]

NEGLIGIBLE_SHARE = 1e-6  # of delta: what cropping the losses' ends may move it
SLACK_SHARE = 1e-4  # of delta: numerical error that is not worth a second transform
OUTSIDE = 1e-10  # tilted mass allowed on either side of the window
ROUND_OFF = 2.0**-43  # a round: transforms, and the relative error of the masses put in
VANISHING = 1e-30  # modulus of a Fourier coefficient that is left out
LARGEST_EXPONENT = 600.0
WORK_LIMIT = 2**22  # points of one transform


class TooFineError(ArithmeticError):
    """The step is too small for the summed loss to fit into one transform."""


def window(losses: Losses, at: Tilt) -> tuple[float, float]:
    """Ends around 0; beyond each lies tilted mass of at most ``OUTSIDE`` (Chernoff)."""
    deviation = math.sqrt(at.variance) + losses[0][0].step
    needed = -math.log(OUTSIDE)
    low, high = -math.inf, math.inf
    for steps in (1, 2, 4, 6, 8, 12):
        more = steps / deviation
        rise = exponential_tilt.log_moment(losses, at.theta + more) - at.log_moment
        fall = exponential_tilt.log_moment(losses, at.theta - more) - at.log_moment
        high = min(high, (rise + needed) / more)
        low = max(low, -(fall + needed) / more)
    return min(low, 0.0), max(high, 0.0)  # no loss: the smallest epsilon there is


def epsilon(losses: Losses, delta: float, side: Side) -> float:
    """Bound of the epsilon at ``delta`` when these losses are drawn independently and summed.

    Args:
        losses: grids that share one step; below the truth for "lower", above for "upper".
        delta: in (0, 1).
        side: the certified side. A lower bound may be 0, an upper one infinite.
    """
    spare = NEGLIGIBLE_SHARE * delta / sum(count for _, count in losses)
    losses = [(cropped(grid, spare, side), count) for grid, count in losses]
    infinite = -math.expm1(sum(n * math.log1p(-grid.infinite) for grid, n in losses))
    delta = delta - infinite if side == "upper" else delta
    if delta <= 0:
        return math.inf
    at = exponential_tilt.saddle(losses, delta)
    value, slack = bound_at(losses, at, delta, side)
    if slack > SLACK_SHARE * delta:  # a lopsided sum: tilt towards the epsilon just found
        retilted = exponential_tilt.with_mean(losses, value, at.theta)
        again, _ = bound_at(losses, retilted, delta, side)
        value = max(value, again) if side == "lower" else min(value, again)
    return value


def bound_at(losses: Losses, at: Tilt, delta: float, side: Side) -> tuple[float, float]:
    """Certified epsilon by one tilt, and how much of delta the numerical error takes there."""
    values, masses, error = convolution(losses, at)
    curve = DeltaCurve.of(values, masses, at, error if side == "upper" else -error)
    if side == "lower":
        value = curve.last_at_least(delta)
    else:
        chernoff = (at.log_moment - math.log(delta)) / at.theta
        value = max(0.0, min(chernoff, curve.first_at_most(delta)))
    return value, error * math.exp(min(at.log_moment - at.theta * value, LARGEST_EXPONENT))


def cropped(grid: LossGrid, spare: float, side: Side) -> LossGrid:
    """The grid without ends of mass at most ``spare`` each: dropped below, rounded up above."""
    masses = grid.masses
    first = int(np.argmax(np.cumsum(masses) > spare))
    last = len(masses) - int(np.argmax(np.cumsum(masses[::-1]) > spare))
    kept = masses[first:last].copy()
    infinite = 0.0
    if side == "upper":
        kept[0] += masses[:first].sum()
        infinite = grid.infinite + float(masses[last:].sum())
    origin = grid.origin + first * grid.step
    return LossGrid(masses=kept, origin=origin, step=grid.step, infinite=infinite)


def convolution(losses: Losses, at: Tilt) -> tuple[np.ndarray, np.ndarray, float]:
    """Losses of the window, their tilted probabilities, and a bound on the total error of these."""
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


def power(spectrum: np.ndarray, count: int) -> np.ndarray:
    """The coefficients to this power; those that end below ``VANISHING`` are set to 0.

    The window's masses then move by at most ``VANISHING`` each: nothing beside ``ROUND_OFF``.
    """
    result = np.zeros_like(spectrum)
    kept = spectrum.real**2 + spectrum.imag**2 > VANISHING ** (2 / count)
    result[kept] = spectrum[kept] ** count
    return result


@dataclass(frozen=True, kw_only=True)
class DeltaCurve:
    """delta at each loss of the window, with the numerical error counted on one side.

    Between two neighbouring losses ``delta(eps) = tail - exp(eps - centre) * shrunk``.
    """

    values: np.ndarray  # (points,) epsilon
    tail: np.ndarray  # (points,) probability of a larger loss, error counted
    shrunk: np.ndarray  # (points,) the same weighted by exp(centre - loss)
    centre: float

    @classmethod
    def of(cls, values: np.ndarray, masses: np.ndarray, at: Tilt, error: float) -> DeltaCurve:
        """From the tilted masses of the window, within what exponentials can hold."""
        near = np.abs(values - at.mean) <= LARGEST_EXPONENT / (at.theta + 1)
        first, last = np.flatnonzero(near)[[0, -1]]
        above = values[first:] - at.mean
        scale = math.exp(at.log_moment - at.theta * at.mean)

        def larger(rate: float) -> np.ndarray:
            sums = np.cumsum((masses[first:] * scale * np.exp(-rate * above))[::-1])[::-1]
            return np.append(sums[1:], 0.0)[: last - first + 1]

        slack = error * scale * np.exp(-at.theta * above[: last - first + 1])
        return cls(
            values=values[near],
            tail=larger(at.theta) + slack,
            shrunk=larger(at.theta + 1),
            centre=at.mean,
        )

    def deltas(self) -> np.ndarray:
        """(points,) delta at each epsilon of the window."""
        return self.tail - np.exp(self.values - self.centre) * self.shrunk

    def crossing(self, place: int, delta: float) -> float:
        """Epsilon between two neighbouring losses where delta is crossed."""
        tail, shrunk = self.tail[place], self.shrunk[place]
        between = tail > delta and shrunk > 0
        return float(self.centre + math.log((tail - delta) / shrunk)) if between else -math.inf

    def last_at_least(self, delta: float) -> float:
        """Largest epsilon in the window at which delta is certainly reached; 0 if there is none."""
        reached = np.flatnonzero(self.deltas() >= delta)
        if not len(reached):
            return 0.0
        place = int(reached[-1])
        following = self.values[min(place + 1, len(self.values) - 1)]
        within = min(self.crossing(place, delta), float(following))
        return max(0.0, float(self.values[place]), within)

    def first_at_most(self, delta: float) -> float:
        """Smallest epsilon in the window at which delta is certainly kept; inf if there is none."""
        kept = np.flatnonzero(self.deltas() <= delta)
        if not len(kept):
            return math.inf
        place = int(kept[0])
        if place == 0:
            return float(self.values[0])
        within = max(self.crossing(place - 1, delta), float(self.values[place - 1]))
        return min(float(self.values[place]), within)
