"""Starts and ends processes that outlive the command, known by their id and the time they began.

An id alone may belong to another process by the time somebody ends it: the system uses ids again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PAUSE = 0.05  # seconds between two looks at a process that ends


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process on this machine."""

    name: str
    pid: int
    started: str  # when it began, as this system tells it

    @property
    def runs(self) -> bool:
        """Whether this very process runs still."""
        return began(self.pid) == self.started


def start(name: str, command: Sequence[str], log: Path, changes: Mapping[str, str]) -> Process:
    """Start a process in a session of its own, whose output goes to a file for its owner alone.

    Args:
        command: its words.
        changes: of the environment.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env={**os.environ, **changes},
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    child.returncode = 0  # nobody waits for it: without this, Python warns when the object goes
    return Process(name=name, pid=child.pid, started=began(child.pid) or "")


def began(pid: int) -> str | None:
    """When a process began, as a text that no later process of this id has; None if none runs."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)  # one of ours that has ended is there until somebody asks
    stat = Path("/proc", str(pid), "stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in ("Z", "X") else fields[19]  # clock ticks since the system began
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return None if not found or found[0].startswith("Z") else " ".join(found[1:])


def end(processes: Sequence[Process], patience: float) -> None:
    """End processes: ask them all, wait, and kill those that are there still.

    Args:
        patience: seconds to wait between the two.
    """
    for process in processes:
        _signal(process, signal.SIGTERM)
    if not _ended(processes, patience):
        for process in processes:
            _signal(process, signal.SIGKILL)
        _ended(processes, patience)


def _signal(process: Process, number: int) -> None:
    if process.runs:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _ended(processes: Sequence[Process], patience: float) -> bool:
    limit = time.monotonic() + patience
    while any(process.runs for process in processes):
        if time.monotonic() > limit:
            return False
        time.sleep(_PAUSE)
    return True
