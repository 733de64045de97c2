"""The one function that bounds what a privacy unit contributes.

Formal guarantees, for every float input:
- each row enters the sum with an L2 norm of at most ``clip_norm``, its direction kept;
- a row of norm at most ``clip_norm`` enters unchanged;
- the norm is taken over the whole row, in float64, and so is the sum: nothing is cast after the clip.

| row                         | contribution          |
|-----------------------------|-----------------------|
| zero                        | zero                  |
| any inf or NaN              | zero                  |
| norm > clip_norm            | scaled to clip_norm   |
| clip_norm = inf             | the row itself        |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Scaling and summing squares round; a factor this much below C / norm keeps the norm at or below C.
_BELOW = 1.0 - 2.0**-44


@dataclass(frozen=True)
class ClippedSum:
    """What a stack adds to the round, and what only a simulation may look at."""

    total: Tensor  # (D,) float64: sum of the clipped rows
    norms: (
        Tensor  # (lanes,) float64 before the clip, inf where a row was not finite; simulation_only
    )


def clipped_sum(rows: Tensor, clip_norm: float) -> ClippedSum:
    """Clip each row of ``rows (lanes, D)`` to ``clip_norm`` and add them up.

    Raises:
        ValueError: if ``clip_norm`` is not positive.
    """
    if not clip_norm > 0:
        raise ValueError(f"Expected {clip_norm=} > 0.")
    wide = rows.to(torch.float64, copy=True)
    norms = torch.linalg.vector_norm(wide, dim=1)
    finite = torch.isfinite(norms)
    wide.masked_fill_(~finite[:, None], 0.0)
    factors = torch.where(norms > clip_norm, _BELOW * clip_norm / norms, 1.0)
    return ClippedSum(total=factors @ wide, norms=norms.nan_to_num(torch.inf))
