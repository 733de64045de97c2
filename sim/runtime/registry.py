"""The table of runtimes: what `runtime.kind` may be.

A runtime carries messages from the server to the nodes and back. It is a function from the
ClientApp and the number of nodes to a context manager that gives Flower's `Grid` while it is open:

    @contextlib.contextmanager
    def start(app: ClientApp, nodes: int) -> Iterator[Grid]: ...

A runtime whose nodes are other processes ignores the given app, which holds this process's model
and records, and builds one there from the run's configuration
(`userdp.sim.run.node_setup.app_from_config`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeAlias

from userdp.sim.common.table import Table

if TYPE_CHECKING:  # slow to import, and a configuration is checked without it
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

Runtime: TypeAlias = "Callable[[ClientApp, int], AbstractContextManager[Grid]]"

RUNTIMES: Table[Runtime] = Table(
    "runtime.kind", {"in_process": "userdp.sim.runtime.in_process.start"}
)
