"""Serves the nodes in this process, and counts the messages that each of them answers."""

import collections
import contextlib
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from userdp.sim.runtime.in_process import InProcessGrid
from userdp.sim.runtime.registry import Nodes


class CountingGrid(InProcessGrid):
    """The in-process grid with a count of answers for each node."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        super().__init__(app, nodes)
        self.answers: collections.Counter[int] = collections.Counter()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            self.answers[reply.metadata.src_node_id] += 1
            yield reply


@contextlib.contextmanager
def start(nodes: Nodes) -> Iterator[Grid]:
    """The runtime; it prints the counts when the run is over, however it ended."""
    grid = CountingGrid(nodes.app, nodes.count)
    try:
        yield grid
    finally:
        for node, count in sorted(grid.answers.items()):
            print(f"node {node} answered {count} messages")
