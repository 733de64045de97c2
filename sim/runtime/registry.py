"""The table of runtimes: the values of `runtime.kind`.

A runtime carries messages from the server to the nodes and back. It is a function of the ClientApp
and the number of nodes that returns a context manager, which opens Flower's `Grid`:

    @contextlib.contextmanager
    def start(app: ClientApp, nodes: int) -> Iterator[Grid]: ...

The given app refers to the model and the records of this process. A runtime whose nodes are other
processes ignores it; each of these processes builds its ClientApp from the run's configuration
(`userdp.sim.run.node_setup.app_from_config`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeAlias

from userdp.sim.common.table import Table

if TYPE_CHECKING:  # slow to import, and not needed to check a configuration
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

Runtime: TypeAlias = "Callable[[ClientApp, int], AbstractContextManager[Grid]]"

RUNTIMES: Table[Runtime] = Table(
    "runtime.kind", {"in_process": "userdp.sim.runtime.in_process.start"}
)
