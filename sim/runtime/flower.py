"""The runtime of a run that Flower started: its grid is the one that Flower gives the ServerApp.

`flwr run` starts the nodes, in a simulation or a deployment, and ends them (`userdp.sim.flower_app`
is the app). The name ``flower`` in a run's configuration says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from flwr.serverapp import Grid

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.runtime import registry
from userdp.sim.runtime.registry import Asked, Nodes

NAME = "flower"
_GIVEN: ContextVar[Grid | None] = ContextVar("grid", default=None)


@contextlib.contextmanager
def given(grid: Grid) -> Iterator[None]:
    """Within this block, and this thread, a run with the runtime ``flower`` uses ``grid``."""
    token = _GIVEN.set(grid)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def _grid() -> Grid:
    """The grid that Flower has given.

    Raises:
        ConfigurationError: Flower did not start this run.
    """
    grid = _GIVEN.get()
    if grid is None:
        raise ConfigurationError(
            f"runtime.kind={NAME}: the nodes are those of flwr run, which did not start this "
            "command; use flwr run, or name another runtime, as runtime.kind=in_process."
        )
    return grid


def _check(asked: Asked) -> None:
    registry.check_options(NAME, asked)
    _grid()


@registry.refusing(_check)
@contextlib.contextmanager
def start(nodes: Nodes) -> Iterator[Grid]:
    """The runtime ``flower``: nothing is started, and nothing is ended."""
    yield _grid()
