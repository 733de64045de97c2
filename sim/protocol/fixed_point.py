"""Fixed point: the numbers of a node's sum as integers modulo 2^64, which add up without rounding.

A masked sum is one vector of unsigned 64-bit integers, in this order:

| entries        | step            | bound of the sum over all nodes                             |
|----------------|-----------------|-------------------------------------------------------------|
| D coordinates  | g, the grid     | 2^52 steps: most units times C is at most 2^52 g (`grid`)   |
| clip bits      | 1/2             | one step a unit; only where the clip norm adapts            |
| `FIGURES`      | 2^-20           | a node cuts its own at 2^62 / n steps                       |

Negative numbers stand in two's complement. Since units are rounded towards zero to multiples of g
after their clip, no norm grows, and a node's float64 sum is an exact multiple of g: nothing is
rounded here but the figures, which a simulation alone may see and no training reads.

>>> grid(1.0, units=1000) == 2.0**-42
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum

MOST_STEPS = 2.0**52  # float64 holds the integers up to twice this
COARSEST = 2.0**-20  # of C: a coarser grid would cut what training needs
_SMALLEST = 2.0**-900  # as of `userdp.server.mechanisms.noise_grid`
_BIT_STEP, _FIGURE_STEP = 0.5, 2.0**-20
_FIGURE_STEPS = 2**62
# The figures of `userdp.clients.training.cohort_update`, in their order in the vector.
FIGURES = (
    *("cohort_size", "failed_units", "clipped_fraction", "mean_update_norm", "train_loss"),
    *("records_used", "tokens_used"),
)


def grid(clip_norm: float, units: int) -> float:
    """g: the smallest power of two of which no possible sum has more than 2^52.

    Args:
        clip_norm: C.
        units: most units that a cohort can have.

    Raises:
        ConfigurationError: there is no such grid that is fine enough for updates of norm C.
    """
    largest = units * clip_norm
    step = 0.0
    if math.isfinite(largest):
        step = math.ldexp(1.0, math.frexp(largest)[1]) / MOST_STEPS
    if not _SMALLEST <= step <= COARSEST * clip_norm:
        raise ConfigurationError(
            f"runtime.secure_sum=true: sums of {units} units of clip norm {clip_norm:g} have no "
            "grid that is exact and fine enough; give a finite clip norm, declare fewer users or "
            "slots, or take runtime.secure_sum=false."
        )
    return step


def check_grid(step: float, clip_norm: float, units: int) -> None:
    """Check that sums of so many units are exact on a grid that a mechanism chose itself.

    Raises:
        ConfigurationError: they are not.
    """
    if not (step >= _SMALLEST and units * clip_norm / step <= MOST_STEPS):
        raise ConfigurationError(
            f"runtime.secure_sum=true: sums of {units} units of clip norm {clip_norm:g} leave the "
            f"exact range of the mechanism's grid {step:g}; take runtime.secure_sum=false."
        )


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """The meaning of the entries of a masked vector; the same for all nodes of a round."""

    size: int  # D
    grid: float  # g, a power of two
    nodes: int  # n, whose vectors are added
    count_unclipped: bool

    @property
    def length(self) -> int:
        """Entries of a vector."""
        return self.size + self.count_unclipped + len(FIGURES)

    def encoded(self, cohort: CohortSum) -> np.ndarray:
        """(length,) uint64 of a node's sum.

        Raises:
            ValueError: its coordinates are no multiples of the grid or beyond 2^52 of it, or its
                parts are not those of a round with this encoding.
        """
        if cohort.rows is not None or (cohort.unclipped_bits is None) == self.count_unclipped:
            raise ValueError("A sum has other parts than its fixed point.")
        if len(cohort.total) != self.size or set(cohort.figures) != set(FIGURES):
            raise ValueError("A sum has another size or other figures than its fixed point.")
        steps = cohort.total / self.grid
        if not ((np.abs(steps) <= MOST_STEPS) & (steps == np.rint(steps))).all():
            raise ValueError("A sum is not on the grid of its fixed point.")
        bits = [] if cohort.unclipped_bits is None else [round(cohort.unclipped_bits / _BIT_STEP)]
        figures = [self._figure_steps(cohort.figures[name]) for name in FIGURES]
        return np.concatenate([steps.astype(np.int64), np.array(bits + figures, np.int64)]).view(
            np.uint64
        )

    def decoded(self, vector: np.ndarray) -> CohortSum:
        """The sum that a vector (length,) uint64 stands for: of one node, or of all added up.

        Raises:
            ValueError: a coordinate is beyond 2^52 steps, which no sum of clipped updates is: the
                masks of the nodes did not cancel.
        """
        steps = vector.view(np.int64)
        if (np.abs(steps[: self.size].astype(np.float64)) > MOST_STEPS).any():
            raise ValueError("the masks of the nodes do not cancel")
        rest = steps[self.size :].tolist()
        bits = rest.pop(0) * _BIT_STEP if self.count_unclipped else None
        figures = {name: float(x * _FIGURE_STEP) for name, x in zip(FIGURES, rest, strict=True)}
        return CohortSum(steps[: self.size] * self.grid, figures, bits)

    def _figure_steps(self, value: float) -> int:
        """A figure in steps, cut so that those of all nodes add up without overflow."""
        most = _FIGURE_STEPS // self.nodes
        return max(-most, min(most, round(value / _FIGURE_STEP)))
