"""The table of runtimes: the values of `runtime.kind`.

A runtime carries messages from the server to the nodes and back. It is a function that returns a
context manager, which opens Flower's `Grid`:

    @contextlib.contextmanager
    def start(app: ClientApp, nodes: int, config: Mapping[str, Any]) -> Iterator[Grid]: ...

``app`` refers to the model and the records of this process. A runtime whose nodes are other
processes ignores it; each of these processes builds its ClientApp from ``config``, the resolved
configuration of the run (`userdp.sim.run.node_setup.app_from_config`). A runtime's own options are
in ``config["runtime"]["options"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from userdp.sim.common.table import Table

if TYPE_CHECKING:  # slow to import, and not needed to check a configuration
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

Runtime: TypeAlias = "Callable[[ClientApp, int, Mapping[str, Any]], AbstractContextManager[Grid]]"

RUNTIMES: Table[Runtime] = Table(
    "runtime.kind", {"in_process": "userdp.sim.runtime.in_process.start"}, kinds=[FunctionType]
)
