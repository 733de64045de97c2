"""Finds out which node hosts which users, before a round is spent.

Flower numbers nodes at random, and they register while the server waits. The server therefore waits
for as many nodes as the run has, and asks each new one which part of the users it hosts. A node
that is started again may have another number; it is asked once more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from userdp.server.time_limit import TimeLimitedGrid
from userdp.sim.protocol import messages
from userdp.sim.protocol.introduction import Introduction
from userdp.sim.protocol.messages import ForeignMessageError

_PAUSE = 0.5  # seconds between two looks at the nodes


class RollCallError(Exception):
    """The nodes are not those of the run; no round was spent."""


@dataclass
class RollCall:
    """Keeps which node hosts which part of the users.

    Args:
        nodes: of the run.
        users: N, declared.
        layout: `Layout.digest` of the run's adapter.
        patience: seconds to wait for nodes that are not there yet, and for their answers.
        roster: digest of the keys under which the nodes mask their sums; empty: they mask none.
        population: id of the population whose users the nodes host; None where the server does not
            know it: it must then be the same for all nodes.
    """

    nodes: int
    users: int
    layout: str
    patience: float
    roster: str = ""
    population: str | None = None
    _known: dict[int, Introduction] = field(default_factory=dict)

    def hosts(self, grid: Grid) -> list[int]:
        """The ids of the nodes, in the order of the parts of the users that they host.

        Raises:
            RollCallError: there are not as many nodes as the run has, even after ``patience``; or
                they are not its nodes: of another app, another adapter, other parts.
        """
        present = self._present(grid)
        new = [node for node in present if node not in self._known]
        for node, found in self._introduced(grid, new):
            self._known[node] = found
        self._known = {node: self._known[node] for node in present}
        self._check()
        return sorted(self._known, key=lambda node: self._known[node].partition)

    def _present(self, grid: Grid) -> list[int]:
        """The ids of as many nodes as the run has, once they are there."""
        end = time.monotonic() + self.patience
        while len(present := sorted(grid.get_node_ids())) != self.nodes:
            if time.monotonic() > end:
                raise RollCallError(
                    f"runtime.nodes={self.nodes}: the runtime has {len(present)} after "
                    f"{self.patience:g} seconds"
                )
            time.sleep(_PAUSE)
        return present

    def _introduced(self, grid: Grid, nodes: list[int]) -> Iterable[tuple[int, Introduction]]:
        """What each of these nodes says of itself."""
        if not nodes:
            return
        requests = [messages.introduction_request(node, self.users) for node in nodes]
        waiting = set(nodes)
        for reply in TimeLimitedGrid(grid, self.patience).send_and_receive(requests):
            node = reply.metadata.src_node_id
            if node in waiting:
                waiting.remove(node)
                yield node, _read(node, reply)
        if waiting:
            raise RollCallError(
                f"{len(waiting)} of {self.nodes} nodes did not say which users they host within "
                f"{self.patience:g} seconds"
            )

    def _check(self) -> None:
        """Check that every user is hosted by exactly one node, with the run's adapter.

        By position this needs that the nodes number the users of one population: a user of two
        populations would be on two nodes, and twice in a sum.
        """
        self._check_parts()
        populations = {found.population for found in self._known.values()}
        unnamed = self.nodes > 1 and "" in populations
        if unnamed or len(populations | {self.population} - {None}) > 1:
            raise RollCallError(
                "the nodes host users of different or unnamed populations, so that a user may be "
                "on two nodes; give server and nodes the shards of one userdp shard command, or "
                "the same data and tokenizer"
            )

    def _check_parts(self) -> None:
        for node, found in self._known.items():
            if found.layout != self.layout:
                raise RollCallError(f"node {node} has another adapter; give all nodes one model")
            if found.roster != self.roster:
                raise RollCallError(f"node {node} {_other_keys(found.roster, self.roster)}")
            if found.partitions != self.nodes:
                raise RollCallError(
                    f"node {node} is one of {found.partitions} nodes by its own account, and "
                    f"runtime.nodes={self.nodes}"
                )
        parts = sorted(found.partition for found in self._known.values())
        if parts != list(range(self.nodes)):
            raise RollCallError(
                "two nodes host the same part of the users; give each its own partition-id, from "
                f"0 to {self.nodes - 1}"
            )


def _other_keys(found: str, wanted: str) -> str:
    """What is wrong with a node whose keys are not those of the run."""
    if not found:
        return "masks no sums, and the run has runtime.secure_sum=true; set it for the node too"
    if not wanted:
        return "masks its sums, and the run has runtime.secure_sum=false; set it to true"
    return "has another list of keys than the run; give all of them one roster (runtime.keys)"


def _read(node: int, reply: Message) -> Introduction:
    try:
        return messages.read_introduction(reply)
    except ForeignMessageError as error:
        raise RollCallError(
            f"node {node}: {error}; its app has to be userdp's, of this version, and its own log "
            "tells what failed there"
        ) from None
