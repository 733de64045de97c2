"""A sweep: its jobs one after the other, or side by side, whatever becomes of each.

The same command into the same folder goes on: what is complete is skipped, what was interrupted is
resumed, and what never reached its first round starts anew.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.config import hydra_compose
from userdp.sim.console import run_summary
from userdp.sim.run import prepare, runner
from userdp.sim.run_folder import composed_epsilon
from userdp.sim.sweep import jobs, live_table, shared_inputs, wandb_summary
from userdp.sim.sweep.jobs import Job

_LOG = logging.getLogger("userdp")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a sweep leaves behind."""

    folder: Path
    jobs: tuple[Job, ...]
    failures: Mapping[int, str]  # reason by job number
    skipped: int  # were complete before
    seconds: float  # from the start of the command
    training_seconds: float | None  # None where other processes trained


def main(overrides: Sequence[str], began: float) -> None:
    """Carry out a sweep and tell how it went; ``began`` is when, by `time.perf_counter`.

    Raises:
        ConfigurationError: before the first job starts, whichever job is wrong.
        StoppedError: some jobs failed; the others are complete.
    """
    done = carry_out(overrides, began)
    _tell(done)
    if done.failures:
        raise StoppedError(
            f"{len(done.failures)} of {len(done.jobs)} jobs failed; to try them again: "
            f"{_way_on(overrides, done.folder)}"
        )


def carry_out(overrides: Sequence[str], began: float | None = None) -> Outcome:
    """Every job of the sweep that is not complete; ``output=FOLDER`` holds them.

    Raises:
        ConfigurationError: before the first job starts, whichever job is wrong.
    """
    began = time.perf_counter() if began is None else began
    if hydra_compose.value(overrides, "resume") is not None:
        raise ConfigurationError("resume: one run at a time; leave out -m.")
    folder, plain = _folder(overrides), _without_place(overrides)
    every = jobs.asked(plain, folder)
    jobs.check(every, folder)
    with contextlib.ExitStack() as stack:
        stack.callback(_forget, folder)
        if known := (folder / jobs.INDEX).exists():
            stack.enter_context(jobs.alone(folder))
        todo = [job for job in every if not jobs.complete(job.folder)]
        asked = [jobs.clear_or_resume(job) for job in todo]
        fresh = [settings for settings in asked if settings.resume is None]
        prepare.check(fresh, _worlds(folder))  # what began was checked then, and fails alone
        if not known:  # a refused sweep leaves no folder
            stack.enter_context(jobs.alone(folder))
            jobs.write_index(every, folder, plain)
        if not hydra_compose.launches_here(overrides):
            _forget(folder)  # the memory is for the processes that need it
        trained = _launched(every, todo, folder, overrides)
    if todo:
        wandb_summary.log(folder, todo[0].settings)
    return Outcome(
        folder=folder,
        jobs=tuple(every),
        failures={job.number: _failure(job) for job in todo if not jobs.complete(job.folder)},
        skipped=len(every) - len(todo),
        seconds=time.perf_counter() - began,
        training_seconds=trained,
    )


def _launched(
    every: Sequence[Job], todo: Sequence[Job], folder: Path, overrides: Sequence[str]
) -> float | None:
    """Seconds of training in this process; None where other processes carried jobs out."""
    for job in todo:
        (job.folder / jobs.FAILED).unlink(missing_ok=True)
    if not todo:
        return 0.0
    task = functools.partial(_task, {job.number: job for job in todo}, folder)
    try:
        with live_table.Watch(every, sys.stderr):
            told = hydra_compose.launch(task, [job.number for job in todo], folder, overrides)
    except KeyboardInterrupt:
        stop = KeyboardInterrupt()
        stop.add_note(f"to go on: {_way_on(overrides, folder)}")
        raise stop from None
    except Exception as error:  # of a launcher: one of its processes died, for example
        _LOG.warning("The launcher stopped: %s: %s", type(error).__name__, error)
        return None
    here = [seconds for process, seconds in told if process == os.getpid()]
    return sum(here) if len(here) == len(told) else None


@functools.lru_cache(maxsize=1)
def _worlds(folder: Path) -> shared_inputs.Worlds:
    """Those of one sweep, in this process."""
    return shared_inputs.Worlds()


def _forget(folder: Path) -> None:
    """A later sweep, or run, of this process loads what it needs."""
    _worlds(folder).free()
    _worlds.cache_clear()


def _task(todo: Mapping[int, Job], folder: Path, config: DictConfig) -> tuple[int, float]:
    """One job, wherever Hydra's launcher calls it; the process, and its seconds of training."""
    job = todo[config.job]
    if jobs.complete(job.folder):  # a launcher may start again what it lost sight of
        return os.getpid(), 0.0
    try:
        with _told_in(job.folder / jobs.OUTPUT):
            done = runner.run(jobs.clear_or_resume(job), job.config, _worlds(folder))
    except Exception as error:  # whatever it is: the other jobs go on
        jobs.fail(job.folder, error, simulation_only=job.settings.track.simulation_only)
        return os.getpid(), 0.0
    return os.getpid(), done.training_seconds


@contextlib.contextmanager
def _told_in(path: Path) -> Iterator[None]:
    """What a job prints and warns of goes to a file: the terminal shows the sweep."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("warning: %(message)s"))
        before, _LOG.handlers = _LOG.handlers, [handler]
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            _LOG.handlers = before


def _failure(job: Job) -> str:
    return jobs.reason(job.folder) or "its process ended without a word"


def _folder(overrides: Sequence[str]) -> Path:
    asked = hydra_compose.value(overrides, "output") or hydra_compose.value(
        overrides, "hydra.sweep.dir"
    )
    if asked is None:
        return Path(datetime.now().strftime("multirun/%Y-%m-%d/%H-%M-%S-%f"))
    return Path(OmegaConf.create({"folder": asked.strip("'\"")}).folder)  # it may say ${now:...}


def _without_place(overrides: Sequence[str]) -> list[str]:
    return [item for item in overrides if not item.startswith(("output=", "hydra.sweep.dir="))]


def _way_on(overrides: Sequence[str], folder: Path) -> str:
    return shlex.join(["userdp", "run", "-m", *_without_place(overrides), f"output={folder}"])


def _tell(done: Outcome) -> None:
    """Failures on standard error; the sweep as a whole, and what it spent, on standard output."""
    for number, reason in done.failures.items():
        print(f"userdp: job {number} ({done.jobs[number].name}): {reason}", file=sys.stderr)
    complete = len(done.jobs) - len(done.failures)
    simulated = all(job.settings.track.simulation_only for job in done.jobs)
    run_summary.print_rows(
        "sweep",
        {
            "jobs": f"{complete} of {len(done.jobs)} complete, {done.skipped} of them from before",
            **({"simulation_only: wall time": _wall_time(done)} if simulated else {}),
            "folder": f"{done.folder}",
        },
    )
    third_party.accountants()
    try:
        print("\n".join(composed_epsilon.of_sweep(done.folder).sentences), flush=True)
    except (FileNotFoundError, ValueError) as error:  # no run began, or a ledger is damaged
        _LOG.warning("What the sweep spent is not known: %s", error)


def _wall_time(done: Outcome) -> str:
    """It depends on private records: how many there are, how long they are."""
    minutes = f"{done.seconds / 60:.1f} minutes"
    if done.training_seconds is None or not done.training_seconds:
        return minutes
    outside = 1 - done.training_seconds / done.seconds
    return f"{minutes}, {outside:.1%} of them outside training (rounds and held-out scores)"
