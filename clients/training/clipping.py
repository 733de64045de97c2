"""The one function that bounds what a privacy unit contributes.

Formal guarantees, for rows of D numbers in float32 or narrower, of any value:
- each row enters the sum with an L2 norm of at most ``clip_norm``, its direction kept;
- a row of norm at most ``(1 - (D + 8) 2^-53) clip_norm`` enters unchanged;
- the norm is taken over the whole row, in float64, and so is the sum: nothing is cast after the
  clip.

| row                         | contribution          |
|-----------------------------|-----------------------|
| zero                        | zero                  |
| any inf or NaN              | zero                  |
| norm > clip_norm            | scaled to clip_norm   |
| clip_norm = inf             | the row itself        |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# float64 numbers held at a time: what a CPU keeps in cache, and what keeps a GPU busy.
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}


@dataclass(frozen=True)
class ClippedSum:
    """What a block adds to the round, and what only a simulation may look at."""

    total: Tensor  # (D,) float64: sum of ``rows()``
    norms: Tensor  # (lanes,) float64 before the clip, inf where not finite; simulation_only
    unclipped: Tensor  # (lanes, D) as they came
    factors: Tensor  # (lanes,) float64: what each lane is multiplied by, 0 where not finite

    def rows(self) -> Tensor:
        """(finite lanes, D) float64 on the CPU, clipped; a row that is not finite is left out."""
        finite = torch.isfinite(self.norms).cpu()
        return self.unclipped.cpu()[finite].double() * self.factors.cpu()[finite, None]


@dataclass(frozen=True)
class Tally:
    """What is counted of lanes on the device, in one small tensor that is read at the end."""

    counts: Tensor  # (4,) float64: finite, finite and within C, beyond C, sum of finite norms

    @classmethod
    def empty(cls, device: torch.device) -> Tally:
        return cls(torch.zeros(4, dtype=torch.float64, device=device))

    def add(self, norms: Tensor, clip_norm: float) -> None:
        """Count lanes of these norms (lanes,), inf where not finite, before a clip at C."""
        finite = torch.isfinite(norms)
        within = finite & (norms <= clip_norm)
        sizes = torch.stack([finite.sum(), within.sum(), (norms > clip_norm).sum()])
        self.counts[:3] += sizes
        self.counts[3] += norms.masked_fill(~finite, 0.0).sum()

    def figures(self) -> Figures:
        """Waits for the device."""
        finite, within, beyond, norms = self.counts.tolist()
        return Figures(int(finite), within - 0.5 * finite, int(beyond), norms)


class Figures(NamedTuple):
    """Of the lanes of a tally; simulation_only but for ``unclipped_bits`` where the clip adapts."""

    finite: int
    unclipped_bits: float  # sum of 1[norm <= C] - 1/2 over finite lanes: a lane moves it by 1/2
    clipped: int  # beyond C, or not finite
    norms: float  # sum over finite lanes


def clipped_sum(rows: Tensor, clip_norm: float) -> ClippedSum:
    """Clip each row of ``rows (lanes, D)`` to ``clip_norm`` and add them up.

    Two passes over the rows, a few columns of all lanes at a time: no float64 copy of them is held.

    Raises:
        ValueError: if ``clip_norm`` is not positive.
    """
    if not clip_norm > 0:
        raise ValueError(f"Expected {clip_norm=} > 0.")
    parts = [torch.linalg.vector_norm(wide, dim=1) for _, wide in _columns(rows)]
    norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    finite = torch.isfinite(norms)
    # Adding D squares errs by at most D 2^-53 of their sum (Higham 2002, 4.2), scaling by a few
    # 2^-53 more: aiming so much below C keeps the true norm at or below C.
    limit = clip_norm * (1.0 - (rows.shape[1] + 8) * 2.0**-53)
    factors = torch.where(finite, (limit / norms).clamp(max=1.0), 0.0)
    total = torch.empty(rows.shape[1], dtype=torch.float64, device=rows.device)
    for part, wide in _columns(rows):
        total[part] = factors @ wide.masked_fill_(~finite[:, None], 0.0)
    return ClippedSum(total, norms.masked_fill(~finite, torch.inf), rows, factors)


def _columns(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """All columns of ``rows (lanes, D)``, some at a time, as a float64 copy."""
    width = max(1, _CHUNK[rows.device.type] // max(1, len(rows)))
    for start in range(0, rows.shape[1], width):
        part = slice(start, start + width)
        yield part, rows[:, part].to(torch.float64, copy=True)
