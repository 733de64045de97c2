"""The state file of a federation on this machine: its processes, and how a run reaches it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.federation.processes import Process
from userdp.sim.runtime.link_options import STATE

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class State:
    """What `userdp up` leaves behind for the run and for `userdp down`.

    Args:
        superlink: options of the runtime: address, and what secures it.
        supernodes: the same of each SuperNode, for its worker.
        processes: in the order in which they were started.
    """

    nodes: int
    superlink: Mapping[str, Any]
    supernodes: Sequence[Mapping[str, Any]]
    processes: Sequence[Process] = field(default_factory=tuple)

    def write(self, folder: Path) -> None:
        """Write the state file, for its owner alone."""
        values = {"format": _FORMAT, **asdict(self)}
        content = (json.dumps(values, indent=2) + "\n").encode()
        durable_file.replace(folder / STATE, content, mode=0o600)


def processes(folder: Path) -> list[Process]:
    """The processes of a federation; none where there is no state file.

    Raises:
        ConfigurationError: the file is damaged.
    """
    try:
        values = json.loads((folder / STATE).read_bytes())
        found = [Process(**one) for one in values["processes"]]
        if values["format"] != _FORMAT or not all(map(_is_whole, found)):
            raise ValueError
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigurationError(
            f"{folder / STATE}: is damaged ({type(error).__name__}), so which processes to end "
            "cannot be told; end them by hand, and delete the file."
        ) from None
    return found


def _is_whole(process: Process) -> bool:
    texts = isinstance(process.name, str) and isinstance(process.started, str)
    return texts and type(process.pid) is int and process.pid > 1 and process.started != ""
