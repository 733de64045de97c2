"""The server's side of secure sums: it adds up masked vectors, and reads their sum alone.

Every node is asked in every round, whether it hosts sampled units or not: the masks cancel in the
sum over all of them, and in no other. What `userdp.server.reply_check` holds a node's sum to can
only be asked of the sum over all nodes: a node that adds too much is noticed where the sum leaves
these limits, and is not named.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import Message

from userdp.server import reply_check
from userdp.server.mechanisms.base import Mechanism
from userdp.server.reply_check import Asked, ReplyRefusedError
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol import fixed_point, messages
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Contract
from userdp.sim.protocol.fixed_point import FixedPoint
from userdp.sim.protocol.layout import Layout


def check(mechanism: Mechanism) -> None:
    """Check, before a round is spent, that the sums of a mechanism can be masked.

    Raises:
        ConfigurationError: the mechanism needs more than a sum, or no grid fits its sums.
    """
    if mechanism.keeps_rows:
        raise ConfigurationError(
            f"runtime.secure_sum=true: strategy={type(mechanism).__name__} needs the update of "
            "every unit, and not only their sum; take another strategy."
        )
    grid_of(mechanism, mechanism.grid, mechanism.clip_norm)


def grid_of(mechanism: Mechanism, own: float, clip_norm: float) -> float:
    """The grid of a round's sums: the mechanism's own where it has one, else the finest exact one.

    Args:
        mechanism: of the round.
        own: its own grid, or 0.
        clip_norm: C of the round.

    Raises:
        ConfigurationError: sums are not exact on its own grid, or on none that is fine enough.
    """
    most = mechanism.users * mechanism.group_size
    if not own:
        return fixed_point.grid(clip_norm, most)
    fixed_point.check_grid(own, clip_norm, most)
    return own


def contract_of(contract: Contract, mechanism: Mechanism, run: str) -> Contract:
    """A round's contract with what masked sums need: the name of the run, and a grid.

    A grid that the mechanism has chosen stays. The sensitivity is the same with any: a grid rounds
    units towards zero after their clip.

    Args:
        contract: of the mechanism.
        mechanism: of the round.
        run: name of the run, the hash of its ledger's header.

    Raises:
        ConfigurationError: no grid fits its sums.
    """
    grid = grid_of(mechanism, contract.grid, contract.clip_norm)
    return replace(contract, grid=grid, secure_sum=run)


@dataclass
class MaskedAggregation:
    """Running sum of the nodes' masked vectors, modulo 2^64; it says nothing until all are in."""

    fixed: FixedPoint
    contract: Contract
    units: int  # asked for, of all nodes together
    total: np.ndarray  # (entries,) uint64
    added: set[int] = field(default_factory=set)  # nodes

    @classmethod
    def empty(cls, asked: Collection[Asked], size: int) -> MaskedAggregation:
        """The sum over no node yet.

        Args:
            asked: what each of the nodes is asked for, all under one contract.
            size: D, parameters of the adapter.
        """
        contract = next(iter(asked)).contract
        fixed = FixedPoint(
            size=size,
            grid=contract.grid,
            nodes=len(asked),
            count_unclipped=contract.count_unclipped,
        )
        units = sum(one.units for one in asked)
        return cls(fixed, contract, units, np.zeros(fixed.length, np.uint64))

    def take(self, reply: Message, asked: Asked, layout: Layout) -> None:
        """Add the masked vector of one node's reply.

        Raises:
            ReplyRefusedError: the reply holds something else, or the node's vector is in already.
        """
        node = reply.metadata.src_node_id
        try:
            vector = messages.read_masked_reply(reply, self.fixed.length)
        except Exception as error:  # whatever a record that is not ours brings NumPy or Flower to
            raise ReplyRefusedError(
                f"its reply is not a masked sum of the contract ({type(error).__name__})"
            ) from None
        if node in self.added:
            raise ReplyRefusedError("its masked sum was added before")
        self.total += vector
        self.added.add(node)

    def cohort(self) -> CohortSum:
        """The sum over all nodes, within the limits of all units asked for.

        Raises:
            ReplyRefusedError: a node's vector is missing, the masks do not cancel, or the sum is
                beyond what the units asked for can add up to.
        """
        if len(self.added) != self.fixed.nodes:
            raise ReplyRefusedError(f"{self.fixed.nodes - len(self.added)} node(s) are missing")
        try:
            cohort = self.fixed.decoded(self.total)
        except ValueError as error:
            raise ReplyRefusedError(str(error)) from None
        reply_check.check(cohort, self.contract, self.units)
        return cohort
