"""The table of runtimes: the values of `runtime.kind`.

A runtime carries messages from the server to the nodes and back. It is a function of the `Nodes` of
a run that returns a context manager, which opens Flower's `Grid` and ends what it started:

    @contextlib.contextmanager
    def start(nodes: Nodes) -> Iterator[Grid]:
        ...
        try:
            yield grid
        finally:
            ...

A runtime in this process serves all nodes by ``nodes.app``, as `userdp.sim.runtime.in_process`
does. A runtime whose nodes are other processes calls ``nodes.make_app(nodes.config)`` in each of
them. The strategy relies on this of every grid:

- each node's ``node_config`` holds its place, ``partition-id`` and ``num-partitions``, as in
  Flower's own runtimes: a user's node is their slot modulo the number of nodes
  (`userdp.server.roll_call`);
- replies may come in any order, but at most one for a message; a node that fails answers with
  Flower's error reply, without the text of the error, which may quote a record;
- ``send_and_receive`` ends by itself. The server keeps the limit ``runtime.timeout`` whether the
  grid does or not (`userdp.server.time_limit`), fetching replies in a thread, and checks every
  reply against what was asked (`userdp.server.reply_check`): a wrong one stops the run;
- Flower's ``TaskIdentity`` is set in the server's process, or its messages cannot be made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from userdp.sim.common.table import Table

if TYPE_CHECKING:  # slow to import, and not needed to check a configuration
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The nodes that a run asks for, and how to serve them."""

    count: int
    app: ClientApp  # serves any of them from the model and the records of this process
    config: Mapping[str, Any]  # the resolved configuration of the run, as plain values
    make_app: Callable[[Mapping[str, Any]], ClientApp]  # the same app from ``config``, elsewhere

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the runtime, ``runtime.options`` of the configuration."""
        options: Mapping[str, Any] = self.config.get("runtime", {}).get("options", {})
        return options


Start: TypeAlias = Callable[[Nodes], "AbstractContextManager[Grid]"]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A runtime whose nodes hold their own records, which the server's process never reads."""

    start: Start
    check: Callable[[Mapping[str, Any]], None]  # refuses ``runtime.options``, before a run starts

    def __call__(self, nodes: Nodes) -> AbstractContextManager[Grid]:
        """As `start`."""
        return self.start(nodes)


Runtime: TypeAlias = Start | Deployment

RUNTIMES: Table[Runtime] = Table(
    "runtime.kind",
    {
        "in_process": "userdp.sim.runtime.in_process.start",
        "superlink": "userdp.sim.runtime.superlink.RUNTIME",
    },
    kinds=[FunctionType, Deployment],
)


def holds_records(kind: str) -> bool:
    """Whether the nodes of a runtime hold records of their own, of which the server has none.

    Raises:
        ConfigurationError: there is no such runtime.
    """
    return isinstance(RUNTIMES.find(kind), Deployment)
