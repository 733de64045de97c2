"""Masks the sum of a node, so that the server reads the sum over all nodes and no single one.

`userdp.sim.protocol.secure_sum` describes the masks, docs/secure_sums.md who can see what.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from userdp.clients import node_keys
from userdp.clients.answered_rounds import AnsweredRounds
from userdp.clients.node_keys import Roster
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol import secure_sum
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Contract
from userdp.sim.protocol.fixed_point import FixedPoint
from userdp.sim.protocol.introduction import Introduction


@dataclass(frozen=True)
class MaskedSums:
    """The roster, and the private keys of those nodes that this process serves.

    A process that has it never sends a sum without masks, whatever the server asks for.
    """

    folder: Path
    roster: Roster
    answered: AnsweredRounds
    # The secrets of a node's pairs, by the node's place: as private as its key.
    _secrets: dict[int, list[bytes]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, folder: Path, *, kept: bool = True) -> Self:
        """From a folder of keys.

        Args:
            folder: with the roster, and the private keys of this process's nodes.
            kept: whether other processes, now or later, serve the same nodes with these keys:
                answered rounds are then kept in the folder, and else in memory.

        Raises:
            ConfigurationError: the roster is missing, damaged or unsafe.
        """
        return cls(folder, node_keys.roster(folder), AnsweredRounds(folder if kept else None))

    def check_place(self, place: Introduction) -> None:
        """Check that a node is one of the roster's, and has its key.

        Raises:
            ConfigurationError: it is not, or its private key is missing, unsafe or another node's.
        """
        if place.partitions != len(self.roster.keys):
            raise ConfigurationError(
                f"runtime.keys={self.folder}: the roster has {len(self.roster.keys)} nodes, the "
                f"federation {place.partitions}; make keys for all nodes."
            )
        self._shared(place.partition)

    def check(self, contract: Contract, place: Introduction | None) -> Introduction:
        """Check a request before a record is read; returns the node's place.

        Raises:
            ConfigurationError: it asks for more than a masked sum, or for a round that the node has
                answered.
        """
        if place is None:
            raise ConfigurationError("runtime.secure_sum=true: the node does not know its place.")
        if not secure_sum.is_run(contract.secure_sum) or contract.keep_rows or not contract.grid:
            raise ConfigurationError(
                "runtime.secure_sum=true: the server asks for a sum without masks; set "
                "runtime.secure_sum=true there too."
            )
        self.check_place(place)
        self.answered.check(place.partition, contract.secure_sum, contract.round)
        return place

    def masked(
        self, cohort: CohortSum, contract: Contract, place: Introduction, context: bytes
    ) -> np.ndarray:
        """The sum of a node under its masks, noted as answered.

        Args:
            cohort: the node's sum, on the contract's grid.
            contract: of the round.
            place: of the node.
            context: of the round, as `secure_sum.context`.

        Returns:
            (entries,) uint64, as `FixedPoint.encoded` of the sum plus the masks.

        Raises:
            AnsweredError: the node has answered this round or a later one.
            ValueError: the sum is not on the grid, or too large for it.
        """
        own = place.partition
        fixed = FixedPoint(
            size=len(cohort.total),
            grid=contract.grid,
            nodes=place.partitions,
            count_unclipped=contract.count_unclipped,
        )
        vector = fixed.encoded(cohort)
        self.answered.note(own, contract.secure_sum, contract.round)
        for other, secret in enumerate(self._shared(own)):
            if other != own:
                key = secure_sum.mask_key(
                    secret,
                    run=contract.secure_sum,
                    number=contract.round,
                    context=context,
                    pair=(self.roster.keys[min(own, other)], self.roster.keys[max(own, other)]),
                )
                secure_sum.add_mask(vector, key, subtract=other < own)
        return vector

    def _shared(self, own: int) -> list[bytes]:
        """The secret of a node with every node of the roster; that with itself is not used."""
        if own not in self._secrets:
            key = node_keys.private(self.folder, own)
            self._secrets[own] = [node_keys.shared_secret(key, k) for k in self.roster.keys]
        return self._secrets[own]
