"""The jobs of a sweep: their settings, and the state of their folders; runs none of them.

A job's folder is its number, in the order of the choices; the sweep's index says what each is.
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
from userdp.sim.common import renamed
from userdp.sim.common.errors import ConfigurationError, StoppedError, located
from userdp.sim.config import hydra_compose, validation
from userdp.sim.config.settings import Settings
from userdp.sim.run_folder.layout import RunFolder, SweepFolder

_PLACE = ("output", "sweep", "resume")  # where a run is kept, no part of what it is


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep."""

    number: int
    choices: tuple[str, ...]  # the overrides in which jobs differ
    settings: Settings
    config: Mapping[str, Any]  # as it is stored

    @property
    def folder(self) -> RunFolder:
        """Where the run keeps its files."""
        return RunFolder(self.settings.folder)

    @property
    def name(self) -> str:
        """The choices, as the terminal and messages name the job."""
        return " ".join(self.choices) or "the only job"


def compose(overrides: Sequence[str], folder: Path) -> list[Job]:
    """Compose and check the configuration of every job of the sweep in ``folder``.

    Raises:
        ConfigurationError: for the first wrong job.
    """
    jobs = hydra_compose.jobs(overrides)
    shared = set.intersection(*map(set, jobs))
    return [
        _job(number, job, tuple(item for item in job if item not in shared), folder)
        for number, job in enumerate(jobs)
    ]


def _job(number: int, overrides: list[str], choices: tuple[str, ...], folder: Path) -> Job:
    settings, config = hydra_compose.settings(overrides)
    place = {"output": str(SweepFolder(folder).job(number).path), "sweep": str(folder)}
    return Job(
        number=number,
        choices=choices,
        settings=replace(settings, **place),
        config={**validation.resolved(config), **place},
    )


def check(jobs: Sequence[Job], sweep: SweepFolder) -> None:
    """Refuse a folder that holds anything but a part of this very sweep.

    Raises:
        ConfigurationError: naming what is there.
    """
    if not sweep.index.exists():
        if any(RunFolder(place).ledger.exists() for place in sweep.path.glob("*/")):
            raise ConfigurationError(
                f"output={sweep.path}: it holds runs already; choose a new folder."
            )
        return
    stored = job_choices(sweep)
    for job in jobs:
        choices = stored.get(str(job.number))
        if choices != list(job.choices):
            there = "no such job" if choices is None else " ".join(choices)
            raise ConfigurationError(
                f"output={sweep.path}: it holds another sweep; job {job.number} is {there} there "
                f"and {job.name} here; choose a new folder."
            )
        if name := differing(job.folder, job.config):
            raise ConfigurationError(
                f"output={sweep.path}: job {job.number} was run with another {name}; "
                "choose a new folder."
            )
    if len(stored) > len(jobs):
        raise ConfigurationError(
            f"output={sweep.path}: it holds another sweep, of {len(stored)} jobs; choose a new "
            "folder."
        )


def job_choices(sweep: SweepFolder) -> Mapping[str, list[str]]:
    """The choices of each job by its folder's name, as the sweep's index holds them."""
    jobs: Mapping[str, list[str]] = json.loads(sweep.index.read_text())["jobs"]
    return jobs


def write_index(jobs: Sequence[Job], sweep: SweepFolder, overrides: Sequence[str]) -> None:
    """Write which job each folder is; the caller holds the folder's lock.

    Raises:
        ConfigurationError: another process was faster, and has written it.
    """
    if sweep.index.exists():
        raise ConfigurationError(
            f"output={sweep.path}: another process began this sweep; try again."
        )
    content = {
        "overrides": list(overrides),
        "jobs": {str(job.number): list(job.choices) for job in jobs},
    }
    temporary = sweep.index.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(sweep.index)


def differing(folder: RunFolder, config: Mapping[str, Any]) -> str | None:
    """In which part the run stored there has another configuration; None where in none."""
    if not folder.config.is_file():
        return None
    stored = renamed.current(OmegaConf.to_container(OmegaConf.load(folder.config)))
    names = [name for name in config if name not in _PLACE and stored.get(name) != config[name]]
    return names[0] if names else None


def clear_or_resume(job: Job) -> Settings:
    """The settings to run the job with: from its first round, or from where it stopped.

    Files of a start that did not reach its first round are removed; nothing was spent there. The
    ledger is locked before it is read, so no process can spend a round between reading and removal.

    Raises:
        ConfigurationError: another process is at work in its folder.
    """
    folder = job.folder
    if not folder.ledger.exists():
        return job.settings
    with _locked(folder.ledger, "r+b"):
        if _has_spent(folder):
            if not folder.complete:  # it was cut off after its statement
                folder.statement.unlink(missing_ok=True)
            return replace(job.settings, resume=str(folder.path))
        for file in (folder.failure, folder.metrics, folder.config, folder.ledger):
            file.unlink(missing_ok=True)  # the ledger last
    return job.settings


@contextlib.contextmanager
def exclusive(sweep: SweepFolder) -> Iterator[None]:
    """Hold a sweep's folder, which is made if it is not there, for this process alone.

    Raises:
        ConfigurationError: another process holds it.
    """
    sweep.path.mkdir(parents=True, exist_ok=True)
    with _locked(sweep.lock, "ab"):
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


def _has_spent(folder: RunFolder) -> bool:
    """Whether a round may have been intended; `Ledger.resume` refuses a damaged ledger."""
    if b"\n" not in folder.ledger.read_bytes():  # the header itself is torn
        return False
    try:
        return ledger.verify(folder.ledger).rounds > 0
    except ledger.LedgerError:
        return True


def record_failure(folder: RunFolder, error: Exception, *, simulation_only: bool = False) -> str:
    """Write why a job failed, the reason as the first line; returns the reason.

    Of an unexpected error, its kind and where it arose. Its text, which may quote a record, and the
    traceback are written only with ``simulation_only``.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    expected, trace = isinstance(error, ConfigurationError | StoppedError), ""
    text = str(error) if expected else located(error)
    if simulation_only and not expected:
        text = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
    reason = " ".join(text.split())
    folder.failure.write_text(f"{reason}\n{trace}")
    return reason


def failure_reason(folder: RunFolder) -> str | None:
    """Why the job failed when it was last tried; None where it did not."""
    if not folder.failure.is_file():
        return None
    return (folder.failure.read_text().splitlines() or [""])[0]
