"""The sum of a cohort's clipped updates: what a node answers with, and what a mechanism noises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class CohortSum:
    """Sums over the units of a node, or of all nodes.

    Everything here is private: it stays inside the trusted side, and is gone once the mechanism has
    released a noised mean of it.
    """

    total: np.ndarray  # (D,) float64, sum of the clipped updates
    figures: Mapping[str, float] = field(default_factory=dict)  # simulation_only sums, by metric
    unclipped_bits: float | None = None  # sum of 1[norm <= C] - 1/2, where the contract asks for it
    rows: np.ndarray | None = None  # (units, D) float64 that add up to ``total``, where asked for
