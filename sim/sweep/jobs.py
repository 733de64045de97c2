"""The jobs of a sweep: composes their settings and reads the state of their folders.

The folder of a job is named by the job's number. The index of the sweep holds the choices of every
job.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from userdp.server.ledger import ledger
from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError, StoppedError, located
from userdp.sim.common.foreign_code import CodeNotLoadedError
from userdp.sim.config import hydra_compose, stored_config, validation
from userdp.sim.config.settings import Settings
from userdp.sim.run_folder.layout import PLACE_KEYS, RunFolder, SweepFolder

_LOG = logging.getLogger("userdp")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep."""

    number: int
    choices: tuple[str, ...]  # the overrides in which jobs differ
    settings: Settings
    config: Mapping[str, Any]  # the resolved configuration, as the run folder holds it

    @property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return RunFolder(self.settings.folder)

    @property
    def name(self) -> str:
        """The choices as text: the name of the job in the terminal and in messages."""
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
    output, sweep = str(SweepFolder(folder).job(number).path), str(folder)
    return Job(
        number=number,
        choices=choices,
        settings=replace(settings, output=output, sweep=sweep),
        config={**validation.resolved(config), "output": output, "sweep": sweep},
    )


def check(jobs: Sequence[Job], sweep: SweepFolder) -> None:
    """Check that the folder is new, or holds jobs of this very sweep.

    Raises:
        ConfigurationError: it has other runs, or jobs with other choices or settings.
    """
    if not sweep.index.exists():
        if any(RunFolder(place).ledger.exists() for place in sweep.path.glob("*/")):
            raise ConfigurationError(
                f"output={sweep.path}: it holds runs already; choose a new folder."
            )
        return
    # Of a sweep with a damaged index, settings are compared, which determine the choices.
    stored = job_choices(sweep) if has_index(sweep) else _named(jobs)
    for job in jobs:
        choices = stored.get(str(job.number))
        if choices != list(job.choices):
            there = "no such job" if choices is None else " ".join(choices)
            raise ConfigurationError(
                f"output={sweep.path}: it holds another sweep; job {job.number} is {there} there "
                f"and {job.name} here; choose a new folder."
            )
        if name := differing(job.folder, job.settings):
            raise ConfigurationError(
                f"output={sweep.path}: job {job.number} was run with another {name}; "
                "choose a new folder."
            )
    if len(stored) > len(jobs):
        raise ConfigurationError(
            f"output={sweep.path}: it holds another sweep, of {len(stored)} jobs; choose a new "
            "folder."
        )


def has_index(sweep: SweepFolder) -> bool:
    """Whether the folder has an index that can be read."""
    try:
        return sweep.index.exists() and bool(job_choices(sweep))
    except ConfigurationError:
        return False


def _named(jobs: Sequence[Job]) -> dict[str, list[str]]:
    return {str(job.number): list(job.choices) for job in jobs}


def job_choices(sweep: SweepFolder) -> Mapping[str, list[str]]:
    """The choices of each job by its folder's name, from the index of the sweep.

    Raises:
        ConfigurationError: the index is damaged.
    """
    try:
        jobs: Mapping[str, list[str]] = json.loads(sweep.index.read_bytes())["jobs"]
        return dict(jobs)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"output={sweep.path}: {sweep.index.name} is damaged ({type(error).__name__}); restore "
            "it, or choose a new folder."
        ) from None


def write_index(jobs: Sequence[Job], sweep: SweepFolder, overrides: Sequence[str]) -> None:
    """Write the index of the sweep; the caller holds the folder's lock (`exclusive`).

    Raises:
        ConfigurationError: another process has written it in the meantime.
    """
    if has_index(sweep):
        raise ConfigurationError(
            f"output={sweep.path}: another process began this sweep; try again."
        )
    content = {
        "overrides": list(overrides),
        "jobs": _named(jobs),
    }
    durable_file.replace(sweep.index, (json.dumps(content, indent=2) + "\n").encode())


def differing(folder: RunFolder, settings: Settings) -> str | None:
    """The first group or value in which a stored run has other settings; None if there is none.

    The settings are compared and not the files: older versions wrote the same ones differently. A
    run whose configuration is gone or damaged is compared when it is resumed, with its ledger.

    Raises:
        CodeNotLoadedError: the stored configuration names code that is not loaded.
    """
    try:
        stored, _ = stored_config.stored(folder, settings)
    except CodeNotLoadedError:
        raise
    except ConfigurationError:
        return None
    names = [field.name for field in fields(Settings) if field.name not in PLACE_KEYS]
    changed = [name for name in names if getattr(stored, name) != getattr(settings, name)]
    return changed[0] if changed else None


def clear_or_resume(job: Job) -> Settings:
    """The settings to run the job with: as a new run, or to resume the one in its folder.

    The files of a run that has not spent a round are removed. The ledger is locked before it is
    read, so that no process can spend a round between reading and removal.

    Raises:
        ConfigurationError: another process uses its folder.
    """
    folder = job.folder
    if not folder.ledger.exists():
        return job.settings
    with _locked(folder.ledger, "r+b"):
        if _has_spent(folder):
            return replace(job.settings, resume=str(folder.path))
        for inside in (folder.adapter, folder.checkpoint):
            shutil.rmtree(inside, ignore_errors=True)
        for file in (folder.failure, folder.metrics, folder.config, folder.ledger):
            file.unlink(missing_ok=True)  # the ledger last: it marks the others as a run's
    return job.settings


def is_running(folder: RunFolder) -> bool:
    """Whether a process holds the ledger of a run."""
    if not folder.ledger.exists():
        return False
    try:
        with _locked(folder.ledger, "r+b"):
            return False
    except ConfigurationError:
        return True


@contextlib.contextmanager
def exclusive(sweep: SweepFolder) -> Iterator[None]:
    """Lock a sweep's folder for this process; the folder is created if there is none.

    Raises:
        ConfigurationError: another process has locked it.
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
                f"output={path.parent}: another process uses it; wait until it ends."
            ) from None
        yield


def _has_spent(folder: RunFolder) -> bool:
    """Whether a round may have been intended; True for a damaged ledger."""
    if not ledger.begun(folder.ledger):
        return False
    try:
        return ledger.verify(folder.ledger).rounds > 0
    except ledger.LedgerError:
        return True  # `Ledger.resume` will refuse it


def record_failure(folder: RunFolder, error: Exception, *, simulation_only: bool = False) -> str:
    """Write why a job failed to its folder, the reason as the first line; returns the reason.

    The reason of an expected error is its message; of another error, its class and where it arose.
    Message and traceback of such an error, which may quote a record, are written only with
    ``simulation_only``.
    """
    expected, trace = isinstance(error, ConfigurationError | StoppedError), ""
    text = str(error) if expected else located(error)
    if simulation_only and not expected:
        text = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
    reason = " ".join(text.split())
    content = f"{reason}\n{trace}".encode(errors="backslashreplace")
    try:
        durable_file.replace(folder.failure, content)
    except OSError as failed:
        _LOG.warning("%s; and its folder does not take this: %s", reason, failed)
    return reason


def failure_reason(folder: RunFolder) -> str | None:
    """Why the last attempt at the job failed; None if it did not fail."""
    if not folder.failure.is_file():
        return None
    text = folder.failure.read_text(encoding="utf-8", errors="replace")
    return (text.splitlines() or [""])[0]
