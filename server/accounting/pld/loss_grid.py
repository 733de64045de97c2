"""Discretises the privacy loss of one round, with certainty from below and from above.

Along the worst direction the outputs of a round are ``P = sum_i hits(i) N(i, z^2)`` with the user
and ``Q = N(0, z^2)`` without; the loss ``L(x) = log P(x)/Q(x)`` grows with ``x``. Cut the axis at
``x_j`` into cells with exact masses ``P_j, Q_j``.

*Below* (`optimistic`). Reporting only the cell is post-processing, so the pair ``(P_j, Q_j)`` is no
easier to tell apart than ``(P, Q)``, in any composition. Its losses ``log P_j/Q_j`` are then
rounded down.

*Above* (`pessimistic`). Give each cell's mass to its two ends, of losses ``L(x_j)`` and
``L(x_{j+1})``, such that both the P-mass and the Q-mass are kept: a randomised map of the ends
gives the cell back (its likelihood ratio lies between theirs), so the new pair is no harder to tell
apart. This is "connect the dots" (Doroshenko et al., arXiv 2207.04380). Losses are then rounded up;
mass beyond the last cell gets an infinite loss.

Both survive composition, because ``delta(eps) = E_P[(1 - exp(eps - sum of losses))_+]`` grows with
every loss. Rounding of the arithmetic is bounded and counted on the safe side.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from userdp.server.accounting.events import FloatArray, RoundEvent
from userdp.server.accounting.pld import privacy_loss

LOSS_ERROR = 1e-12  # relative and absolute error allowed to a computed loss
EDGE_ITERATIONS = 5  # times that edges are moved
GRID_TOLERANCE = 1e-6  # in steps: losses so close below a grid point are not rounded down a step
MASS_ERROR = 2.0**-48  # error of a normal distribution function, relative to its value


@dataclass(frozen=True, kw_only=True)
class LossGrid:
    """Probability ``masses[i]`` of privacy loss ``origin + i * step``, and of infinite loss."""

    masses: FloatArray  # (cells,)
    origin: float
    step: float
    infinite: float = 0.0

    @functools.cached_property
    def losses(self) -> FloatArray:
        """(cells,) the losses, increasing."""
        return self.origin + self.step * np.arange(len(self.masses), dtype=np.float64)

    @functools.cached_property
    def log_masses(self) -> FloatArray:
        """(cells,) logarithms of the masses; -inf where there is none."""
        with np.errstate(divide="ignore"):
            return np.log(self.masses)


@dataclass(frozen=True, kw_only=True)
class RoundLoss:
    """Loss distributions of both directions: removal (P against Q), addition (Q against P)."""

    removal: LossGrid
    addition: LossGrid


def optimistic(event: RoundEvent, step: float, tail: float) -> RoundLoss:
    """Loss distributions that are certainly not above the true ones, on a grid of width ``step``.

    Args:
        event: a plain round, without cap and failure.
        step: distance of two losses.
        tail: mass beyond the last cut, at most.
    """
    edges = np.concatenate([[-math.inf], _merging_edges(event, step, tail), [math.inf]])
    with_user, without, loss, error = _cell_losses(event, edges)
    known = np.isfinite(loss) & (error < step)  # dropping the other cells lowers delta
    with_user, without, loss, error = (a[known] for a in (with_user, without, loss, error))
    return RoundLoss(
        removal=_rounded_down(loss - error, with_user, step),
        addition=_rounded_down(-loss - error, without, step),
    )


def pessimistic(event: RoundEvent, step: float, tail: float) -> RoundLoss:
    """Loss distributions that are certainly not below the true ones, on a grid of width ``step``.

    Args:
        event: a plain round, without cap and failure.
        step: distance of two losses.
        tail: mass beyond the last cut, at most.

    Raises:
        OverflowError: there is so little noise that a loss is no finite number.
    """
    edges = _grid_edges(event, step, tail)
    ends = privacy_loss.privacy_loss(event, edges)
    least = privacy_loss.least_loss(event)
    if math.isfinite(least):  # the first cell reaches down to the infimum of the loss
        edges, ends = np.concatenate([[-math.inf], edges]), np.concatenate([[least], ends])
    with_user, without, loss, error = _cell_losses(event, edges)
    low, high = ends[:-1], ends[1:]
    largest = np.where(np.isfinite(loss), np.clip(loss + error, low, high), high)
    smallest = np.where(np.isfinite(loss), np.clip(loss - error, low, high), low)
    with np.errstate(over="ignore", invalid="ignore"):  # of cells wider than float64, see below
        width = np.expm1(high - low)
        removal = _split_between_ends(with_user, np.expm1(high - largest) / width)
        addition = _split_between_ends(without, 1 - np.expm1(smallest - low) / width)
    if np.isnan(removal).any() or np.isnan(addition).any():
        raise OverflowError("The losses of a round are beyond float64: there is too little noise.")
    mass_below, mass_above = _masses_outside(event, edges[0], edges[-1])
    removal[0] += mass_below[0]
    addition[-1] += mass_above[1]
    margin = LOSS_ERROR * (1 + np.abs(ends))
    return RoundLoss(
        removal=_rounded_up(ends + margin, removal, step, mass_above[0]),
        addition=_rounded_up(-ends + margin, addition, step, mass_below[1]),
    )


def _split_between_ends(mass: FloatArray, share_of_low: FloatArray) -> FloatArray:
    """(cells + 1,) masses of the ends of the cells, from the masses (cells,) of the cells."""
    ends = np.zeros(len(mass) + 1)
    ends[:-1] += mass * share_of_low
    ends[1:] += mass * (1 - share_of_low)
    return ends


def _masses_outside(event: RoundEvent, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    """(2,) masses of P and Q below ``low``, and (2,) above ``high``."""
    z, hits = event.noise_multiplier, event.hits()
    centres = np.arange(len(hits))
    below = special.ndtr((low - centres) / z)
    above = special.ndtr((centres - high) / z)
    return np.array([hits @ below, below[0]]), np.array([hits @ above, above[0]])


def _cell_losses(
    event: RoundEvent, edges: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """P-mass, Q-mass, loss log P/Q and a bound on the error of the loss, each (cells,).

    Args:
        edges: (cells + 1,) increasing outputs. The loss is NaN where a mass is too small.
    """
    with_user, with_error = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    without, without_error = _normal_masses(edges, 0, event.noise_multiplier)
    for i, weight in enumerate(event.hits()):
        mass, error = _normal_masses(edges, i, event.noise_multiplier)
        with_user += weight * mass
        with_error += weight * error
    tiny = np.finfo(np.float64).tiny * 2.0**60  # smaller masses may be rounded as denormals
    positive = (with_user > tiny) & (without > tiny)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = np.where(positive, np.log(with_user) - np.log(without), np.nan)
        error = with_error / with_user + without_error / without + LOSS_ERROR * (1 + np.abs(loss))
    return with_user, without, loss, error


def _normal_masses(edges: FloatArray, centre: int, z: float) -> tuple[FloatArray, FloatArray]:
    """(cells,) masses of N(centre, z^2) between edges, and (cells,) bounds of their errors.

    Differences are taken of the smaller tails, whose relative errors are bounded.
    """
    u = (edges - centre) / z
    tails = special.ndtr(-np.abs(u))
    left, right = tails[:-1], tails[1:]
    straddling = (u[:-1] < 0) & (u[1:] > 0)
    masses = np.where(straddling, 1 - left - right, np.abs(left - right))
    return masses, MASS_ERROR * np.where(straddling, 1, left + right)


def _loss_table(event: RoundEvent, step: float, tail: float) -> tuple[FloatArray, FloatArray]:
    """(points,) outputs and (points,) losses, several to a cell; they only guide the edges."""
    low, high = privacy_loss.support(event, tail)
    x = np.linspace(low, high, 4 * math.ceil(privacy_loss.loss_range(event, tail) / step) + 2000)
    return x, privacy_loss.privacy_loss(event, x)


def _outputs_at(
    event: RoundEvent,
    table: tuple[FloatArray, FloatArray],
    losses: FloatArray,
) -> FloatArray:
    """(edges,) outputs of nearly these losses (edges,): interpolation and one secant step."""
    x, loss = table
    guess = np.interp(losses, loss, x)
    index = np.clip(np.searchsorted(loss, losses), 1, len(x) - 1)
    slope = (loss[index] - loss[index - 1]) / (x[1] - x[0])
    move = (losses - privacy_loss.privacy_loss(event, guess)) / np.maximum(
        slope, np.finfo(np.float64).tiny
    )
    spacing = x[1] - x[0]
    return np.maximum.accumulate(guess + np.clip(move, -spacing, spacing))


def _grid_edges(event: RoundEvent, step: float, tail: float) -> FloatArray:
    """(edges,) outputs whose losses are whole steps above the least loss."""
    table = _loss_table(event, step, tail)
    least, (lowest, highest) = privacy_loss.least_loss(event), table[1][[0, -1]]
    start = least + step if math.isfinite(least) else lowest
    edges = _outputs_at(event, table, np.arange(start, max(highest, start) + step, step))
    rising = np.diff(privacy_loss.privacy_loss(event, edges), prepend=-math.inf) > step / 2
    return edges[rising]  # a cell of no width would divide by zero; fewer cells are as valid


def _merging_edges(event: RoundEvent, step: float, tail: float) -> FloatArray:
    """(edges,) edges of cells whose losses lie nearly on one grid, so that rounding costs little.

    The first cell reaches down to the infimum of the loss; it ends where its loss is half a step
    below that of its edge. The other edges are moved until the losses of their cells are whole
    steps from it.
    """
    x, loss = table = _loss_table(event, step, tail)
    start = float(privacy_loss.privacy_loss(event, np.array(_first_cut(event, x, step))))
    targets = np.arange(start, loss[-1], step)
    wanted = targets[:-1] + step / 2
    for _ in range(EDGE_ITERATIONS):
        edges = np.concatenate([[-math.inf], _outputs_at(event, table, targets)])
        losses = _cell_losses(event, edges)[2]
        excess = np.clip(np.nan_to_num(losses[1:] - wanted), -step / 8, step / 8)
        targets[1:-1] -= (excess[:-1] + excess[1:]) / 2
        targets[0] -= excess[0]
        shift = np.clip(np.nan_to_num(losses[0] - (wanted[0] - step)), -step / 8, step / 8)
        targets, wanted = targets + shift, wanted + shift
    return np.unique(_outputs_at(event, table, targets))


def _first_cut(event: RoundEvent, x: FloatArray, step: float) -> float:
    """Output whose loss is half a step above that of the cell of all outputs below it.

    Args:
        x: (points,) increasing outputs that bracket it.
    """
    hits, centres = event.hits(), np.arange(event.group_size + 1)

    def excess(cut: float | FloatArray) -> FloatArray:
        below = special.ndtr((np.asarray(cut)[..., None] - centres) / event.noise_multiplier)
        cell_loss = np.log(below @ hits) - np.log(below[..., 0])
        difference: FloatArray = privacy_loss.privacy_loss(event, np.asarray(cut)) - cell_loss
        return difference - step / 2

    sample = x[:: len(x) // 1000]
    index = int(np.argmax(excess(sample) >= 0))
    if index == 0:
        return float(x[0])
    return float(optimize.brentq(excess, sample[index - 1], sample[index]))


def _rounded_down(losses: FloatArray, masses: FloatArray, step: float) -> LossGrid:
    """The losses rounded down to the grid of width ``step`` that lowers their mean least.

    Args:
        losses: (cells,) in any order.
        masses: (cells,) of the losses.
    """
    residues = np.mod(losses, step)
    order = np.argsort(residues)
    sorted_residues, sorted_masses = residues[order], masses[order]
    mass_before = np.cumsum(sorted_masses) - sorted_masses  # falls to the grid point before
    cost = step * mass_before - sorted_residues * masses.sum()
    offset = sorted_residues[np.argmin(cost)] - GRID_TOLERANCE * step
    cells = np.floor((losses - offset) / step).astype(np.int64)
    cells -= (offset + cells * step > losses).astype(np.int64)
    first = cells.min()
    return LossGrid(
        masses=np.bincount(cells - first, weights=masses).astype(np.float64),
        origin=float(offset + first * step),
        step=step,
    )


def _rounded_up(losses: FloatArray, masses: FloatArray, step: float, infinite: float) -> LossGrid:
    """The losses rounded up, by rounding their negatives down; ``infinite`` has infinite loss."""
    mirrored = _rounded_down(-losses, masses, step)
    last = mirrored.origin + step * (len(mirrored.masses) - 1)
    return LossGrid(masses=mirrored.masses[::-1], origin=-last, step=step, infinite=infinite)
