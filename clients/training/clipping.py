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
| norm at most (1 - (D + 8) 2^-53) clip_norm | the row itself, bit by bit                    |
| larger norm                                | in the same direction, scaled to clip_norm    |
| clip_norm = inf                            | the row itself                                |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import NamedTuple

import torch
from torch import Tensor

from userdp.sim.common.table import Table
from userdp.sim.protocol.layout import Layout

# float64 numbers per chunk, by device: a CPU keeps these in its cache, and a GPU is kept busy.
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}


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
        total = torch.empty_like(self.total)
        failed = ~torch.isfinite(self.norms)[:, None]
        for part, wide in _columns(self.unclipped):
            factors = self.factors if self.factors.shape[1] == 1 else self.factors[:, part]
            clipped = wide.mul_(factors).masked_fill_(failed, 0.0)
            total[part] = clipped.div_(step).trunc_().sum(0)
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
    1607.00133, Algorithm 1) for all parameters together. It takes two passes over chunks of
    columns, so that no float64 copy of all rows is held.

    Args:
        rows: (lanes, D) float32 or narrower.
        clip_norm: C, may be infinite.

    Raises:
        ValueError: ``clip_norm`` is not positive.
    """
    if not clip_norm > 0:
        raise ValueError(f"Expected {clip_norm=} > 0.")
    parts = [torch.linalg.vector_norm(wide, dim=1) for _, wide in _columns(rows)]
    norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    finite = torch.isfinite(norms)
    # The rounding error of a sum of D squares is at most D 2^-53 of it (Higham 2002, section 4.2),
    # that of the scaling a few 2^-53. A limit so much below C keeps the exact norm at or below C.
    limit = clip_norm * (1.0 - (rows.shape[1] + 8) * 2.0**-53)
    factors = torch.where(finite, (limit / norms).clamp(max=1.0), 0.0)
    total = torch.empty(rows.shape[1], dtype=torch.float64, device=rows.device)
    for part, wide in _columns(rows):
        total[part] = factors @ wide.masked_fill_(~finite[:, None], 0.0)
    return ClippedSum(total, norms.masked_fill(~finite, torch.inf), rows, factors[:, None])


def _columns(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of the columns of ``rows (lanes, D)``: their slice and a (lanes, .) float64 copy."""
    width = max(1, _CHUNK[rows.device.type] // max(1, len(rows)))
    for start in range(0, rows.shape[1], width):
        part = slice(start, start + width)
        yield part, rows[:, part].to(torch.float64, copy=True)


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
