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

A runtime that may refuse a configuration does so before the run's folder exists: `refusing` gives
it a function for this.

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

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from userdp.sim.common.errors import ConfigurationError
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


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a configuration asks of a runtime, known before any data or model is loaded."""

    nodes: int
    options: Mapping[str, Any]  # `runtime.options`
    device: str  # of the configuration: auto, cpu, cuda, ...


Start: TypeAlias = Callable[[Nodes], "AbstractContextManager[Grid]"]
Check: TypeAlias = Callable[[Asked], object]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A runtime whose nodes hold their own records, which the server's process never reads."""

    start: Start
    check: Check  # as `refusing` takes it

    def __call__(self, nodes: Nodes) -> AbstractContextManager[Grid]:
        """As `start`."""
        return self.start(nodes)


Runtime: TypeAlias = Start | Deployment

RUNTIMES: Table[Runtime] = Table(
    "runtime.kind",
    {
        "in_process": "userdp.sim.runtime.in_process.start",
        "ray": "userdp.sim.runtime.ray.start",
        "flower": "userdp.sim.runtime.flower.start",
        "superlink": "userdp.sim.runtime.superlink.RUNTIME",
    },
    kinds=[FunctionType, Deployment],
)
_CHECK = "check"  # attribute of a runtime that can refuse


def holds_records(kind: str) -> bool:
    """Whether the nodes of a runtime hold records of their own, of which the server has none.

    Raises:
        ConfigurationError: there is no such runtime.
    """
    return isinstance(RUNTIMES.find(kind), Deployment)


def refusing(check: Check) -> Callable[[Start], Start]:
    """A decorator that gives a runtime the function by which it refuses a configuration.

    Args:
        check: raises `ConfigurationError` for what the runtime cannot serve, a library that is not
            installed included; it is called before the run's folder exists, and starts nothing.
    """

    def decorated(runtime: Start) -> Start:
        setattr(runtime, _CHECK, check)
        return runtime

    return decorated


def check(kind: str, asked: Asked) -> None:
    """Let the runtime of this name refuse what it cannot serve.

    Raises:
        ConfigurationError: there is no such runtime, or it refuses.
    """
    refusal: Check | None = getattr(RUNTIMES.find(kind), _CHECK, None)
    if refusal is not None:
        refusal(asked)


def check_options(kind: str, asked: Asked, known: Collection[str] = ()) -> None:
    """Refuse options of a runtime that it does not have.

    Args:
        kind: name of the runtime.
        known: names of the options it has.

    Raises:
        ConfigurationError: names the first unknown one.
    """
    for name, value in asked.options.items():
        if name not in known:
            remedy = (
                f"choose one of {', '.join(known)}" if known else "there are none; leave it out"
            )
            raise ConfigurationError(
                f"runtime.options.{name}={value}: no option of runtime.kind={kind}; {remedy}."
            )
