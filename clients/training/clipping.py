"""Clip rules, which bound what a privacy unit adds to a sum, and counts of the clipped units.

A clip rule is a function ``(rows (lanes, D) float32, clip_norm, layout) -> ClippedSum``; a row is
the update of one unit, and the layout says where each tensor lies in it. The sensitivity of every
mechanism rests on it. Each rule must guarantee, for rows of any values, not-finite ones included:

1. each row enters the sum with an L2 norm of at most ``clip_norm`` over the whole row, after all
   rounding;
2. a row with an inf or NaN enters as zero;
3. up to rounding, the contribution of a row depends on this row, ``clip_norm`` and layout alone;
4. factors, products and the sum are float64, and nothing is cast after the clip.

A rule leaves its rows unchanged, and raises ValueError for a ``clip_norm`` that is not positive.
`CLIP_RULES` names the rules. A contract may name a rule of another package by its dotted name;
`find` then bounds what that rule returns once more, so that 1 and 2 do not rest on its author.
The rule "joint" (`clip_jointly`) adds these guarantees for rows in float32 or a narrower type:

| row                                        | contribution                                  |
|--------------------------------------------|-----------------------------------------------|
| norm at most (1 - (D + 8) 2^-52) clip_norm | the row itself, bit by bit                    |
| larger norm                                | in the same direction, scaled to clip_norm    |
| clip_norm = inf                            | the row itself                                |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import NamedTuple

import torch
from torch import Tensor

from userdp.clients.kernels import row_sums
from userdp.sim.common.table import Table
from userdp.sim.protocol.layout import Layout

# With factors from here up, the product with a float32 number is 0 or at least 2^-999: never a
# denormal number, whose relative rounding error may be large.
_LEAST_FACTOR = 2.0**-850


@dataclass(frozen=True)
class ClippedSum:
    """The sum of the clipped updates of a block, and the values it is computed from."""

    total: Tensor  # (D,) float64: sum of ``rows()``
    # (lanes,) float64 L2 of whole rows before the clip, inf for a not-finite row; an adaptive clip
    # norm counts those at most C, whatever the rule bounds beside them. simulation_only
    norms: Tensor
    unclipped: Tensor  # (lanes, D) the updates before the clip
    factors: Tensor  # (lanes, 1), or (lanes, D) per coordinate: float64, 0 for a not-finite row

    def rows(self, step: float = 0.0) -> Tensor:
        """(finite lanes, D) float64 on the CPU: the clipped updates without the not-finite ones.

        Args:
            step: as of `total_on_grid`; 0 leaves them as they are.
        """
        finite = torch.isfinite(self.norms).cpu()
        rows = self.unclipped.cpu()[finite].double() * self.factors.cpu()[finite]
        return rows.div_(step).trunc_().mul_(step) if step else rows

    def leaving(self) -> ClippedSum:
        """The same on the CPU; from a GPU it has arrived once the host has waited for the GPU."""
        return ClippedSum(
            **{name: tensor.to("cpu", non_blocking=True) for name, tensor in vars(self).items()}
        )

    def total_on_grid(self, step: float) -> Tensor:
        """(D,) float64 sum of the clipped updates, each rounded towards zero to multiples of step.

        No coordinate grows, so no norm does. The sum is exact, whatever its order, as long as it
        has fewer than 2^53 steps (`userdp.server.mechanisms.noise_grid`).

        Args:
            step: a power of two, so that division by it is exact.
        """
        # A division by a power of two is exact, so it may come before the product.
        counted = torch.isfinite(self.norms)
        total = row_sums.weighted_sum(self.unclipped, self.factors / step, counted, whole=True)
        return total.mul_(step)


ClipRule = Callable[[Tensor, float, Layout], ClippedSum]


@dataclass(frozen=True)
class Tally:
    """Counts of clipped and not-finite units, added up on the device until the end of a round."""

    counts: Tensor  # (4,) float64: finite, finite and norm <= C, norm > C, sum of finite norms

    @classmethod
    def empty(cls, device: torch.device) -> Tally:
        """All counts zero."""
        return cls(torch.zeros(4, dtype=torch.float64, device=device))

    def add(self, norms: Tensor, clip_norm: float) -> None:
        """Count units by their ``norms (lanes,)`` before the clip, inf for a not-finite row."""
        finite = torch.isfinite(norms)
        within = finite & (norms <= clip_norm)
        sizes = torch.stack([finite.sum(), within.sum(), (norms > clip_norm).sum()])
        self.counts[:3] += sizes
        self.counts[3] += norms.masked_fill(~finite, 0.0).sum()

    def include(self, other: Tally) -> None:
        """Add the counts of further units, on the same device."""
        self.counts.add_(other.counts)

    def figures(self) -> Figures:
        """Read the counts; this waits for the device."""
        finite, within, beyond, norms = self.counts.tolist()
        return Figures(int(finite), within - 0.5 * finite, int(beyond), norms)


class Figures(NamedTuple):
    """Counts of a tally; simulation_only, except ``unclipped_bits`` if the clip is adaptive."""

    finite: int  # units with a finite update
    unclipped_bits: float  # sum of 1[norm <= C] - 1/2 over these: one unit moves it by 1/2
    clipped: int  # units with norm > C, or not finite
    norms: float  # sum of finite norms


def clipped_sum(rows: Tensor, clip_norm: float) -> ClippedSum:
    """The rule "joint": scale each row to an L2 norm of at most ``clip_norm``, and add the rows up.

    ``sum_i rows_i min(1, clip_norm / |rows_i|)``, the clip of DP-SGD (Abadi et al., arXiv
    1607.00133, Algorithm 1) for all parameters together. The rows are read twice, for norms and for
    the sum, and no float64 copy of them is made (`userdp.clients.kernels.row_sums`).

    Why the exact norm of every contribution is at most C, whatever the row holds: let u = 2^-53,
    and N the exact norm of a float32 row. All computed numbers are float64.

    - The computed norm n is at least (1 - (D + 3) u) N, as shown in `row_sums`, in any order of
      adding up, and not finite exactly where the row is not finite (its contribution is zero).
    - The limit L = C (1 - (D + 8) u) is at most (1 + u) times its formula, whose bracket is exact.
    - Where n is above L, the factor L / n is rounded once, and so is its product with each number:
      the contribution has a norm of at most
      ``(1 + u)^2 N L / n <= C (1 + u)^3 (1 - (D + 8) u) / (1 - (D + 3) u) < C``.
    - Otherwise the factor is 1, L / n is at least 1 - u, and the contribution is the row:
      ``N <= n / (1 - (D + 3) u) <= C (1 + u)^3 (1 - (D + 8) u) / (1 - (D + 3) u) < C``.
    - No operation underflows: a factor below 2^-850, of a row longer than 2^849 C, becomes 0.

    The noise can thus be priced for C itself. Rounding costs a long row (D + 8) u of its length.

    The norms have a pass of their own, and do not come with the products that gave the gradients: N
    above is that of the row as it is added up, after sums over stacks and steps, learning rate and
    scale were rounded to float32. Squares of products from before these roundings, or of the parts
    of a unit that is spread over several stacks, would bound another row.

    Args:
        rows: (lanes, D) float32 or narrower; float64 as `_bounded` gives it.
        clip_norm: C, may be infinite.

    Raises:
        ValueError: ``clip_norm`` is not positive.
    """
    if not clip_norm > 0:
        raise ValueError(f"Expected {clip_norm=} > 0.")
    norms = row_sums.norms(rows)
    finite = torch.isfinite(norms)
    limit = clip_norm * (1.0 - (rows.shape[1] + 8) * 2.0**-53)
    factors = torch.where(finite, (limit / norms).clamp(max=1.0), 0.0)
    factors.masked_fill_(factors < _LEAST_FACTOR, 0.0)
    total = row_sums.weighted_sum(rows, factors[:, None], finite)
    return ClippedSum(total, norms.masked_fill(~finite, torch.inf), rows, factors[:, None])


def clip_jointly(rows: Tensor, clip_norm: float, layout: Layout) -> ClippedSum:
    """The rule "joint": bounds the norm of a row (lanes, D) over all tensors together.

    Raises:
        ValueError: ``clip_norm`` is not positive.
    """
    return clipped_sum(rows, clip_norm)


CLIP_RULES: Table[ClipRule] = Table(
    "contract.clipping", {"joint": clip_jointly}, kinds=[FunctionType]
)


def find(name: str) -> ClipRule:
    """The clip rule of this name; a rule of another package is followed by the joint clip.

    Such a rule was not tested here, and the noise is priced for rows of at most ``clip_norm``. The
    joint clip makes guarantees 1 and 2 true, and changes a correct rule's rows by rounding alone.
    It is given float64 rows, whose squares are rounded and may underflow. For a ``clip_norm`` of
    2^-400 or more the limit of `clipped_sum` covers both.

    Raises:
        ConfigurationError: there is no clip rule of that name.
    """
    rule = CLIP_RULES.find(name)
    return rule if name in CLIP_RULES else _bounded(rule)


def _bounded(rule: ClipRule) -> ClipRule:
    def clip(rows: Tensor, clip_norm: float, layout: Layout) -> ClippedSum:
        proposed = rule(rows, clip_norm, layout)
        joint = clipped_sum(proposed.unclipped.double() * proposed.factors, clip_norm)
        failed = torch.isinf(joint.norms)
        return ClippedSum(
            total=joint.total,
            norms=proposed.norms.masked_fill(failed, torch.inf),
            unclipped=proposed.unclipped,
            factors=(proposed.factors * joint.factors).masked_fill(failed[:, None], 0.0),
        )

    return clip
