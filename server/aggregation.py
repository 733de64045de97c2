"""Adds up the replies of a round's nodes as they arrive, with one reply in memory at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message

from userdp.server.reply_check import Asked, checked
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.layout import Layout


@dataclass
class Aggregation:
    """Running sum over the nodes' replies, and their rows where the mechanism needs them."""

    total: np.ndarray  # (D,) float64
    unclipped_bits: float | None = None
    rows: dict[int, np.ndarray] | None = None  # node -> (units, D) float64
    figures: Counter[str] = field(default_factory=Counter)

    @classmethod
    def empty(cls, size: int, *, count_unclipped: bool, keep_rows: bool) -> Aggregation:
        """The sum over no unit.

        Args:
            size: D, parameters of the adapter.
            count_unclipped: whether replies hold clip bits.
            keep_rows: whether replies hold their rows.
        """
        bits = 0.0 if count_unclipped else None
        return cls(np.zeros(size), bits, rows={} if keep_rows else None)

    def take(self, reply: Message, asked: Asked, layout: Layout) -> None:
        """Check the reply of one node, and add it.

        Raises:
            ReplyRefusedError: the reply is not one to ``asked``.
        """
        self.add(reply.metadata.src_node_id, checked(reply, asked, layout))

    def add(self, node: int, reply: CohortSum) -> None:
        """Add the reply of one node.

        Raises:
            ValueError: the reply lacks clip bits or rows that the contract asks for, or holds some
                that it does not ask for.
        """
        if (reply.unclipped_bits is None) != (self.unclipped_bits is None):
            raise ValueError("The clip bits of a reply are not as the contract asked.")
        if (reply.rows is None) != (self.rows is None):
            raise ValueError("The rows of a reply are not as the contract asked.")
        self.total += reply.total
        if self.unclipped_bits is not None and reply.unclipped_bits is not None:
            self.unclipped_bits += reply.unclipped_bits
        if self.rows is not None and reply.rows is not None:
            self.rows[node] = reply.rows
        self.figures.update(reply.figures)

    def cohort(self) -> CohortSum:
        """The sum over all nodes; rows in the order of the nodes' ids."""
        rows = None
        if self.rows is not None:
            empty = np.zeros((0, len(self.total)))
            rows = np.concatenate([empty, *(self.rows[node] for node in sorted(self.rows))])
        return CohortSum(self.total, self.figures, self.unclipped_bits, rows)
