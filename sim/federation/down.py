"""`userdp down`: ends the processes of a federation that `userdp up` has started, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from userdp.sim.common import durable_file
from userdp.sim.common.errors import StoppedError
from userdp.sim.config import command_options
from userdp.sim.federation import processes, state, words
from userdp.sim.runtime.link_options import STATE

FOLDER = "federation"  # below the working folder, where none is named
MARK = ".userdp-federation"  # a folder that holds nothing but what `userdp up` writes
_PATIENCE = 8.0  # seconds in which a process ends by itself
KEYS = "keys"  # folder of the keys for secure sums
_PRIVATE = ("*.key", "*.secret", f"{KEYS}/*")


@dataclass(frozen=True, kw_only=True)
class DownOptions:
    """Options of `userdp down`."""

    state: str = FOLDER  # folder of the federation


def main(arguments: Sequence[str]) -> None:
    """End a federation; where none runs, that is said and no error.

    Args:
        arguments: the folder of the federation, by itself or as ``state=FOLDER``.

    Raises:
        ConfigurationError: an option is wrong, or the state file is damaged.
        StoppedError: a process could not be ended.
    """
    given, folders = words.split(arguments, ["state"])
    options = command_options.parsed(
        DownOptions, [*given, *(f"state={folder}" for folder in folders)], "down: "
    )
    folder = Path(options.state)
    found = [process for process in state.processes(folder) if process.runs]
    # Workers and SuperNodes first: a SuperNode takes its leave of the SuperLink.
    link = [process for process in found if process.name == "superlink"]
    processes.end([process for process in found if process not in link], _PATIENCE)
    processes.end(link, _PATIENCE)
    if left := [process.name for process in found if process.runs]:
        raise StoppedError(f"down: {', '.join(left)} could not be ended; try again.")
    clean(folder)
    said = f"ended {len(found)} processes" if found else "no federation runs"
    print(f"userdp: {said} in {folder}")


def clean(folder: Path) -> None:
    """Delete the state file, and the private keys and secrets of a federation that has ended."""
    if not (folder / MARK).exists():
        return
    for pattern in _PRIVATE:
        for path in folder.glob(pattern):
            durable_file.remove(path)
    durable_file.remove(folder / STATE)
