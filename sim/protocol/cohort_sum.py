"""The sum of a cohort's clipped updates: a node's reply, and the input of a mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class CohortSum:
    """Sums over the units of one node, or of all nodes.

    All of it is private: it stays on the trusted side and is discarded when the mechanism has
    released a noised mean of it.
    """

    total: np.ndarray  # (D,) float64, sum of the clipped updates
    figures: Mapping[str, float] = field(default_factory=dict)  # simulation_only sums, by metric
    unclipped_bits: float | None = None  # sum of 1[norm <= C] - 1/2, if ``count_unclipped``
    rows: np.ndarray | None = None  # (units, D) float64, of sum ``total``, if ``keep_rows``
