"""The privacy loss of one round on a grid: a distribution certainly below it, one certainly above.

Along the worst direction the outputs of a round are ``P = sum_i hits(i) N(i, z^2)`` with the user
and ``Q = N(0, z^2)`` without; the loss ``L(x) = log P(x)/Q(x)`` grows with ``x``. Cut the axis at
``x_j`` into cells with exact masses ``P_j, Q_j``.

*Below.* Reporting only the cell is post-processing, so the pair ``(P_j, Q_j)`` is no easier to tell
apart than ``(P, Q)``, in any composition. Its losses ``log P_j/Q_j`` are then rounded down.

*Above.* Give each cell's mass to its two ends, of losses ``L(x_j)`` and ``L(x_{j+1})``, such that
both the P-mass and the Q-mass are kept: a randomised map of the ends gives the cell back (its
likelihood ratio lies between theirs), so the new pair is no harder to tell apart. This is
"connect the dots" (Doroshenko et al., arXiv 2207.04380). Losses are then rounded up; mass beyond
the last cell gets an infinite loss.

Both survive composition, because ``delta(eps) = E_P[(1 - exp(eps - sum of losses))_+]`` grows with
every loss. Rounding of the arithmetic is bounded and counted on the safe side.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from userdp.server.accounting.events import RoundEvent
from userdp.server.accounting.pld import privacy_loss

LOSS_ERROR = 1e-12  # relative and absolute error allowed to a computed loss
SETTLING = 5  # times that edges are moved
GRID_PLAY = 1e-6  # in steps: what was meant to lie on one grid falls onto it, not one step below
MASS_ERROR = 2.0**-48  # error of a normal distribution function, relative to its value


@dataclass(frozen=True, kw_only=True)
class LossGrid:
    """Probability ``masses[i]`` of privacy loss ``origin + i * step``, and of infinite loss."""

    masses: np.ndarray  # (cells,) float64
    origin: float
    step: float
    infinite: float = 0.0

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """(cells,) the losses, increasing."""
        return self.origin + self.step * np.arange(len(self.masses))

    @functools.cached_property
    def log_masses(self) -> np.ndarray:
        """(cells,) logarithms of the masses; -inf where there is none."""
        with np.errstate(divide="ignore"):
            return np.log(self.masses)


@dataclass(frozen=True, kw_only=True)
class RoundLoss:
    """Both directions: the user was there (P against Q), the user was not (Q against P)."""

    removal: LossGrid
    addition: LossGrid


def below(event: RoundEvent, step: float, tail: float) -> RoundLoss:
    """Loss distributions that are certainly not above the true ones, on a grid of width ``step``.

    ``tail`` is the mass beyond the last cut, at most.
    """
    edges = np.concatenate([[-math.inf], _merging_edges(event, step, tail), [math.inf]])
    with_user, without, loss, error = _cell_losses(event, edges)
    known = np.isfinite(loss) & (error < step)  # the rest is dropped: that lowers delta
    with_user, without, loss, error = (a[known] for a in (with_user, without, loss, error))
    return RoundLoss(
        removal=_rounded_down(loss - error, with_user, step),
        addition=_rounded_down(-loss - error, without, step),
    )


def above(event: RoundEvent, step: float, tail: float) -> RoundLoss:
    """Loss distributions that are certainly not below the true ones, on a grid of width ``step``.

    ``tail`` is the mass beyond the last cut, at most.
    """
    edges = _grid_edges(event, step, tail)
    ends = privacy_loss.privacy_loss(event, edges)
    least = privacy_loss.least_loss(event)
    if math.isfinite(least):  # the first cell reaches down to the infimum of the loss
        edges, ends = np.concatenate([[-math.inf], edges]), np.concatenate([[least], ends])
    with_user, without, loss, error = _cell_losses(event, edges)
    low, high = ends[:-1], ends[1:]
    up = np.where(np.isfinite(loss), np.clip(loss + error, low, high), high)
    down = np.where(np.isfinite(loss), np.clip(loss - error, low, high), low)
    width = np.expm1(high - low)
    removal = _to_ends(with_user, np.expm1(high - up) / width)
    addition = _to_ends(without, 1 - np.expm1(down - low) / width)
    below_all, above_all = _outside(event, edges[0], edges[-1])
    removal[0] += below_all[0]
    addition[-1] += above_all[1]
    margin = LOSS_ERROR * (1 + np.abs(ends))
    return RoundLoss(
        removal=_rounded_up(ends + margin, removal, step, above_all[0]),
        addition=_rounded_up(-ends + margin, addition, step, below_all[1]),
    )


def _to_ends(mass: np.ndarray, share_of_low: np.ndarray) -> np.ndarray:
    """(cells + 1,) masses of the cells' ends."""
    ends = np.zeros(len(mass) + 1)
    ends[:-1] += mass * share_of_low
    ends[1:] += mass * (1 - share_of_low)
    return ends


def _outside(event: RoundEvent, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """(P, Q) masses below ``low`` and above ``high``."""
    z, hits = event.noise_multiplier, event.hits()
    centres = np.arange(len(hits))
    beneath = special.ndtr((low - centres) / z)
    beyond = special.ndtr((centres - high) / z)
    return np.array([hits @ beneath, beneath[0]]), np.array([hits @ beyond, beyond[0]])


def _cell_losses(
    event: RoundEvent, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """P-mass, Q-mass, log P/Q and a bound on the error of the latter, each (cells,)."""
    with_user, with_error = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    without, without_error = _normal_masses(edges, 0, event.noise_multiplier)
    for i, weight in enumerate(event.hits()):
        mass, error = _normal_masses(edges, i, event.noise_multiplier)
        with_user += weight * mass
        with_error += weight * error
    tiny = np.finfo(np.float64).tiny * 2.0**60  # below this, denormal steps spoil the ratio
    positive = (with_user > tiny) & (without > tiny)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = np.where(positive, np.log(with_user) - np.log(without), np.nan)
        error = with_error / with_user + without_error / without + LOSS_ERROR * (1 + np.abs(loss))
    return with_user, without, loss, error


def _normal_masses(edges: np.ndarray, centre: int, z: float) -> tuple[np.ndarray, np.ndarray]:
    """Masses of N(centre, z^2) between edges, and error bounds: small tails are subtracted."""
    u = (edges - centre) / z
    tails = special.ndtr(-np.abs(u))
    left, right = tails[:-1], tails[1:]
    straddling = (u[:-1] < 0) & (u[1:] > 0)
    masses = np.where(straddling, 1 - left - right, np.abs(left - right))
    return masses, MASS_ERROR * np.where(straddling, 1, left + right)


def _loss_table(event: RoundEvent, step: float, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and their losses, a few points to a cell; only guides where edges go."""
    low, high = privacy_loss.support(event, tail)
    x = np.linspace(low, high, 4 * math.ceil(privacy_loss.loss_range(event, tail) / step) + 2000)
    return x, privacy_loss.privacy_loss(event, x)


def _outputs_at(
    event: RoundEvent, table: tuple[np.ndarray, np.ndarray], losses: np.ndarray
) -> np.ndarray:
    """Outputs whose loss is nearly ``losses``: interpolation and one secant step."""
    x, loss = table
    guess = np.interp(losses, loss, x)
    place = np.clip(np.searchsorted(loss, losses), 1, len(x) - 1)
    slope = (loss[place] - loss[place - 1]) / (x[1] - x[0])
    move = (losses - privacy_loss.privacy_loss(event, guess)) / np.maximum(
        slope, np.finfo(np.float64).tiny
    )
    spacing = x[1] - x[0]
    return np.maximum.accumulate(guess + np.clip(move, -spacing, spacing))


def _grid_edges(event: RoundEvent, step: float, tail: float) -> np.ndarray:
    """Outputs whose losses are whole steps above the least loss."""
    table = _loss_table(event, step, tail)
    least, (lowest, highest) = privacy_loss.least_loss(event), table[1][[0, -1]]
    start = least + step if math.isfinite(least) else lowest
    edges = _outputs_at(event, table, np.arange(start, max(highest, start) + step, step))
    rising = np.diff(privacy_loss.privacy_loss(event, edges), prepend=-math.inf) > step / 2
    return edges[rising]  # fewer cuts are as valid; a cell of no width would divide by zero


def _merging_edges(event: RoundEvent, step: float, tail: float) -> np.ndarray:
    """Edges between which the merged losses lie nearly on one grid, so that rounding costs little.

    The first cell reaches down to the infimum of the loss; it ends where its merged loss is half a
    step below its edge. The others are moved until their merged losses are whole steps from it.
    """
    x, loss = table = _loss_table(event, step, tail)
    start = float(privacy_loss.privacy_loss(event, np.array(_first_cut(event, x, step))))
    targets = np.arange(start, loss[-1], step)
    wanted = targets[:-1] + step / 2
    for _ in range(SETTLING):
        edges = np.concatenate([[-math.inf], _outputs_at(event, table, targets)])
        merged = _cell_losses(event, edges)[2]
        miss = np.clip(np.nan_to_num(merged[1:] - wanted), -step / 8, step / 8)
        targets[1:-1] -= (miss[:-1] + miss[1:]) / 2
        targets[0] -= miss[0]
        shift = np.clip(np.nan_to_num(merged[0] - (wanted[0] - step)), -step / 8, step / 8)
        targets, wanted = targets + shift, wanted + shift
    return np.unique(_outputs_at(event, table, targets))


def _first_cut(event: RoundEvent, x: np.ndarray, step: float) -> float:
    """Output such that all outputs below it merge into a loss half a step below its own."""
    hits, centres = event.hits(), np.arange(event.group_size + 1)

    def missing(cut: float | np.ndarray) -> np.ndarray:
        beneath = special.ndtr((np.asarray(cut)[..., None] - centres) / event.noise_multiplier)
        merged = np.log(beneath @ hits) - np.log(beneath[..., 0])
        return privacy_loss.privacy_loss(event, np.asarray(cut)) - merged - step / 2

    sample = x[:: len(x) // 1000]
    place = int(np.argmax(missing(sample) >= 0))
    if place == 0:
        return float(x[0])
    return optimize.brentq(missing, sample[place - 1], sample[place])


def _rounded_down(losses: np.ndarray, masses: np.ndarray, step: float) -> LossGrid:
    """The grid of width ``step`` onto which rounding down moves the mean loss least."""
    residues = np.mod(losses, step)
    order = np.argsort(residues)
    sorted_residues, sorted_masses = residues[order], masses[order]
    beneath = np.cumsum(sorted_masses) - sorted_masses  # these fall from the grid point before
    cost = step * beneath - sorted_residues * masses.sum()
    offset = sorted_residues[np.argmin(cost)] - GRID_PLAY * step
    cells = np.floor((losses - offset) / step).astype(np.int64)
    cells -= (offset + cells * step > losses).astype(np.int64)
    first = cells.min()
    return LossGrid(
        masses=np.bincount(cells - first, weights=masses),
        origin=float(offset + first * step),
        step=step,
    )


def _rounded_up(losses: np.ndarray, masses: np.ndarray, step: float, infinite: float) -> LossGrid:
    """The same upwards: rounding down of the mirrored losses."""
    mirrored = _rounded_down(-losses, masses, step)
    last = mirrored.origin + step * (len(mirrored.masses) - 1)
    return LossGrid(masses=mirrored.masses[::-1], origin=-last, step=step, infinite=infinite)
