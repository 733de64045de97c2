"""The jobs of a sweep, and what their folders say of them; carries out none.

A job's folder is its number, in the order of the choices; ``sweep.json`` says what each number is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from userdp.server.ledger import ledger
from userdp.sim.common.errors import ConfigurationError, StoppedError, located
from userdp.sim.config import hydra_compose, validation
from userdp.sim.config.settings import Settings

INDEX, FAILED, OUTPUT = "sweep.json", "failed.txt", "output.txt"
_LOCK = "sweep.lock"  # never replaced, as the index is
_PLACE = ("output", "sweep", "resume")  # where a run is kept, no part of what it is
_BEFORE_ROUND_1 = (FAILED, "metrics.jsonl", "config.yaml", "ledger.jsonl")  # the ledger last


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep."""

    number: int
    choices: tuple[str, ...]  # the overrides in which jobs differ
    settings: Settings
    config: Mapping[str, Any]  # as it is stored

    @property
    def folder(self) -> Path:
        return self.settings.folder

    @property
    def name(self) -> str:
        """What a person calls it."""
        return " ".join(self.choices) or "the only job"


def asked(overrides: Sequence[str], folder: Path) -> list[Job]:
    """Compose and check the configuration of every job of the sweep in ``folder``.

    Raises:
        ConfigurationError: for the first wrong job.
    """
    split = hydra_compose.jobs(overrides)
    shared = set.intersection(*map(set, split))
    return [
        _job(number, own, tuple(item for item in own if item not in shared), folder)
        for number, own in enumerate(split)
    ]


def _job(number: int, overrides: list[str], choices: tuple[str, ...], folder: Path) -> Job:
    settings, config = hydra_compose.settings(overrides)
    own, whole = str(folder / str(number)), str(folder)
    return Job(
        number=number,
        choices=choices,
        settings=replace(settings, output=own, sweep=whole),
        config={**validation.resolved(config), "output": own, "sweep": whole},
    )


def check(jobs: Sequence[Job], folder: Path) -> None:
    """Refuse a folder that holds anything but a part of this very sweep.

    Raises:
        ConfigurationError: naming what is there.
    """
    index = folder / INDEX
    if not index.exists():
        if any(folder.glob("*/ledger.jsonl")):
            raise ConfigurationError(
                f"output={folder}: it holds runs already; choose a new folder."
            )
        return
    there = json.loads(index.read_text())["jobs"]
    for job in jobs:
        other = there.get(str(job.number))
        if other != list(job.choices):
            told = "no such job" if other is None else " ".join(other)
            raise ConfigurationError(
                f"output={folder}: it holds another sweep; job {job.number} is {told} there and "
                f"{job.name} here; choose a new folder."
            )
        if name := differing(job.folder, job.config):
            raise ConfigurationError(
                f"output={folder}: job {job.number} was run with another {name}; "
                "choose a new folder."
            )
    if len(there) > len(jobs):
        raise ConfigurationError(
            f"output={folder}: it holds another sweep, of {len(there)} jobs; choose a new folder."
        )


def write_index(jobs: Sequence[Job], folder: Path, overrides: Sequence[str]) -> None:
    """Say in ``sweep.json`` which job each folder is; for whoever holds the folder ``alone``.

    Raises:
        ConfigurationError: it is said there, by a process that was faster.
    """
    if (folder / INDEX).exists():
        raise ConfigurationError(f"output={folder}: another process began this sweep; try again.")
    told = {
        "overrides": list(overrides),
        "jobs": {str(job.number): list(job.choices) for job in jobs},
    }
    temporary = folder / f"{INDEX}.tmp"
    temporary.write_text(json.dumps(told, indent=2) + "\n")
    temporary.replace(folder / INDEX)


def differing(folder: Path, config: Mapping[str, Any]) -> str | None:
    """In which part the run stored there has another configuration; None where in none."""
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    stored: Any = OmegaConf.to_container(OmegaConf.load(path))
    names = [name for name in config if name not in _PLACE and stored.get(name) != config[name]]
    return names[0] if names else None


def complete(folder: Path) -> bool:
    """Whether a run in the folder has ended: a statement, and the summary as its last metrics.

    The summary is written last, after statement and adapter; reports go by the same two.
    """
    metrics = folder / "metrics.jsonl"
    if not (metrics.is_file() and (folder / "privacy_statement.json").is_file()):
        return False
    lines = metrics.read_text().splitlines()
    return bool(lines) and '"summary/' in lines[-1]


def clear_or_resume(job: Job) -> Settings:
    """The settings to carry the job out with: from its first round, or from where it stopped.

    What a start left that did not reach its first round is removed; nothing was spent there. The
    ledger is locked before it is read, so nobody spends a round between the look and the removal.

    Raises:
        ConfigurationError: another process is at work in its folder.
    """
    path = job.folder / "ledger.jsonl"
    if not path.exists():
        return job.settings
    with _locked(path, "r+b"):
        if _spent(path):
            if not complete(job.folder):  # it was cut off after
                (job.folder / "privacy_statement.json").unlink(missing_ok=True)
            return replace(job.settings, resume=str(job.folder))
        for name in _BEFORE_ROUND_1:
            (job.folder / name).unlink(missing_ok=True)
    return job.settings


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder, which is made if it is not there, for this process alone.

    Raises:
        ConfigurationError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / _LOCK, "ab"):
        yield


@contextlib.contextmanager
def _locked(path: Path, mode: Literal["ab", "r+b"]) -> Iterator[None]:
    with path.open(mode) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"output={path.parent}: another process is at it; wait for its end."
            ) from None
        yield


def _spent(path: Path) -> bool:
    """Whether a round may have been intended; a damaged ledger is for `ledger.resume` to refuse."""
    if not path.exists() or b"\n" not in path.read_bytes():  # the header itself is torn
        return False
    try:
        return ledger.verify(path).rounds > 0
    except ledger.LedgerError:
        return True


def fail(folder: Path, error: Exception, *, simulation_only: bool = False) -> str:
    """Record why a job failed, the reason as the first line.

    Of an error that is none of ours, the kind and where; its text, which may quote a record, and
    the traceback only with ``simulation_only``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours, trace = isinstance(error, ConfigurationError | StoppedError), ""
    text = str(error) if ours else located(error)
    if simulation_only and not ours:
        text = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
    reason = " ".join(text.split())
    (folder / FAILED).write_text(f"{reason}\n{trace}")
    return reason


def reason(folder: Path) -> str | None:
    """Why the job failed the last time it was tried; None where it did not."""
    path = folder / FAILED
    return (path.read_text().splitlines() or [""])[0] if path.is_file() else None
