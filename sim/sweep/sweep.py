"""Runs a sweep's jobs, serially or in parallel; one failure does not stop the others.

The same command with the same folder resumes the sweep: complete jobs are skipped, interrupted ones
are resumed, and those that have not spent a round start anew.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.config import hydra_compose
from userdp.sim.config.settings import Track
from userdp.sim.console import run_summary
from userdp.sim.run import prepare, runner
from userdp.sim.run_folder import composed_epsilon
from userdp.sim.run_folder.layout import SweepFolder
from userdp.sim.sweep import jobs, launcher, live_table
from userdp.sim.sweep.jobs import Job
from userdp.sim.sweep.shared_inputs import SharedInputs

_LOG = logging.getLogger("userdp")

# Called with the sweep's folder and its tracking settings once the jobs have run.
Afterwards = Callable[[Path, Track], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a sweep, beside the files in its folder."""

    folder: Path
    jobs: tuple[Job, ...]
    failures: Mapping[int, str]  # reason by job number
    skipped: int  # jobs that were complete before this command
    seconds: float  # from the start of the command
    training_seconds: float | None  # None if other processes trained


def main(overrides: Sequence[str], started: float, afterwards: Afterwards) -> None:
    """Run a sweep and print its outcome.

    Args:
        overrides: of the command.
        started: when the command started, by `time.perf_counter`.
        afterwards: as `run` takes it.

    Raises:
        ConfigurationError: before the first job starts, whichever job is wrong.
        StoppedError: some jobs failed; the others are complete.
    """
    outcome = run(overrides, started, afterwards)
    _print_outcome(outcome)
    if outcome.failures:
        raise StoppedError(
            f"{len(outcome.failures)} of {len(outcome.jobs)} jobs failed; to try them again: "
            f"{_resume_command(overrides, outcome.folder)}"
        )


def run(
    overrides: Sequence[str],
    started: float | None = None,
    afterwards: Afterwards = lambda *_: None,
) -> Outcome:
    """Run every job of the sweep that is not complete.

    Args:
        overrides: of the command; ``output=FOLDER`` names the folder of the sweep.
        started: when the command started, by `time.perf_counter`; None: now.
        afterwards: called once the jobs have run, unless all were complete before.

    Raises:
        ConfigurationError: before the first job starts, whichever job is wrong.
    """
    started = time.perf_counter() if started is None else started
    if hydra_compose.value(overrides, "resume") is not None:
        raise ConfigurationError("resume: one run at a time; leave out -m.")
    folder, rest = _folder(overrides), hydra_compose.without_place(overrides)
    sweep, all_jobs = SweepFolder(folder), jobs.compose(rest, folder)
    jobs.check(all_jobs, sweep)
    with contextlib.ExitStack() as stack:
        stack.callback(_free, folder)
        if begun_before := sweep.index.exists():
            stack.enter_context(jobs.exclusive(sweep))
        todo = [job for job in all_jobs if not job.folder.complete]
        settings = [jobs.clear_or_resume(job) for job in todo]
        new = [one for one in settings if one.resume is None]  # resumed jobs were checked before
        prepare.check(new, _inputs(folder).load)
        if not begun_before:  # a refused sweep leaves no folder
            stack.enter_context(jobs.exclusive(sweep))
        if not begun_before or not jobs.has_index(sweep):  # none, or a damaged one
            jobs.write_index(all_jobs, sweep, rest)
        if not launcher.runs_in_process(overrides):
            _free(folder)  # leaves the memory to the processes that run the jobs
        training_seconds = _launch(all_jobs, todo, folder, overrides)
    if todo:
        afterwards(folder, todo[0].settings.track)
    return Outcome(
        folder=folder,
        jobs=tuple(all_jobs),
        failures={job.number: _failure(job) for job in todo if not job.folder.complete},
        skipped=len(all_jobs) - len(todo),
        seconds=time.perf_counter() - started,
        training_seconds=training_seconds,
    )


def _launch(
    all_jobs: Sequence[Job], todo: Sequence[Job], folder: Path, overrides: Sequence[str]
) -> float | None:
    """Run the jobs; seconds of training in this process, or None if other processes trained."""
    for job in todo:
        job.folder.failure.unlink(missing_ok=True)
    if not todo:
        return 0.0
    task = functools.partial(_task, {job.number: job for job in todo}, folder)
    try:
        with live_table.LiveTable(all_jobs, sys.stderr):
            results = launcher.launch(task, [job.number for job in todo], folder, overrides)
    except KeyboardInterrupt:
        interrupt = KeyboardInterrupt()
        interrupt.add_note(f"to resume: {_resume_command(overrides, folder)}")
        raise interrupt from None
    except Exception as error:  # of the launcher, for example because one of its processes died
        _LOG.warning("The launcher stopped: %s: %s", type(error).__name__, error)
        return None
    seconds = [seconds for process, seconds in results if process == os.getpid()]
    return sum(seconds) if len(seconds) == len(results) else None


@functools.lru_cache(maxsize=1)
def _inputs(folder: Path) -> SharedInputs:
    """The inputs that the jobs of one sweep share in this process."""
    return SharedInputs()


def _free(folder: Path) -> None:
    """Free the shared inputs; a later sweep of this process loads its own."""
    _inputs(folder).free()
    _inputs.cache_clear()


def _task(todo: Mapping[int, Job], folder: Path, config: DictConfig) -> tuple[int, float]:
    """Run one job in the process that the launcher has chosen; its id, and seconds of training."""
    job = todo[config.job]
    if job.folder.complete:  # a launcher may repeat a job after it lost contact with it
        return os.getpid(), 0.0
    try:
        with _output_to(job.folder.output):
            result = runner.run(jobs.clear_or_resume(job), job.config, _inputs(folder).load)
    except Exception as error:  # of any type, so that the other jobs run
        simulation_only = job.settings.track.simulation_only
        jobs.record_failure(job.folder, error, simulation_only=simulation_only)
        return os.getpid(), 0.0
    return os.getpid(), result.training_seconds


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirect output and warnings of a job to a file, since the terminal shows the sweep."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1, encoding="utf-8") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("warning: %(message)s"))
        before, _LOG.handlers = _LOG.handlers, [handler]
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            _LOG.handlers = before


def _failure(job: Job) -> str:
    if jobs.is_running(job.folder):  # the launcher stopped for the sake of another job
        return "it is still running, and was left to itself; wait until it ends"
    return jobs.failure_reason(job.folder) or "its process ended without a message"


def _folder(overrides: Sequence[str]) -> Path:
    given = hydra_compose.sweep_folder(overrides)
    return Path(given or datetime.now().strftime("multirun/%Y-%m-%d/%H-%M-%S-%f"))


def _resume_command(overrides: Sequence[str], folder: Path) -> str:
    rest = hydra_compose.without_place(overrides)
    return shlex.join(["userdp", "run", "-m", *rest, f"output={folder}"])


def _print_outcome(outcome: Outcome) -> None:
    """Print failures on standard error, and counts and epsilon of the sweep on standard output."""
    for number, reason in outcome.failures.items():
        print(f"userdp: job {number} ({outcome.jobs[number].name}): {reason}", file=sys.stderr)
    total, complete = len(outcome.jobs), len(outcome.jobs) - len(outcome.failures)
    simulated = all(job.settings.track.simulation_only for job in outcome.jobs)
    run_summary.print_rows(
        "sweep",
        {
            "jobs": f"{complete} of {total} complete, {outcome.skipped} of them from before",
            **({"simulation_only: wall time": _wall_time(outcome)} if simulated else {}),
            "folder": f"{outcome.folder}",
        },
    )
    third_party.accountants()
    try:
        print("\n".join(composed_epsilon.of_sweep(outcome.folder).sentences), flush=True)
    except (FileNotFoundError, ValueError) as error:  # no run began, or a ledger is damaged
        _LOG.warning("The epsilon of the sweep is not known: %s", error)


def _wall_time(outcome: Outcome) -> str:
    """The duration of the sweep; it depends on private records, so it is for simulations only."""
    minutes = f"{outcome.seconds / 60:.1f} minutes"
    if not outcome.training_seconds:
        return minutes
    outside = 1 - outcome.training_seconds / outcome.seconds
    return f"{minutes}, {outside:.1%} of them outside training (rounds and held-out scores)"
