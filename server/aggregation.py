"""The nodes' answers of one round, added up as they arrive."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from userdp.server.mechanisms.base import CohortSum
from userdp.sim.protocol import messages


@dataclass
class Fold:
    """Running sum over the nodes' answers, and their rows where the mechanism needs them."""

    total: np.ndarray  # (D,) float64
    unclipped_bits: float = 0.0
    rows: dict[int, np.ndarray] | None = None  # node -> (units, D) float64
    simulation_only: Counter[str] = field(default_factory=Counter)

    def cohort(self) -> CohortSum:
        if self.rows is None:
            return CohortSum(self.total, self.unclipped_bits)
        none = np.zeros((0, len(self.total)))
        rows = np.concatenate([none, *(self.rows[node] for node in sorted(self.rows))])
        return CohortSum(self.total, self.unclipped_bits, rows)

    def add(self, node: int, answer: messages.NodeSum) -> None:
        self.total += answer.total
        if self.rows is not None and answer.rows is not None:
            self.rows[node] = answer.rows
        self.unclipped_bits += answer.unclipped_bits or 0.0
        self.simulation_only.update(answer.simulation_only)
