"""Sides of a benchmark as processes, and the turns they take.

A side sleeps in a read while another one works. It is asked in turn, once for warm-up and then
``repeats`` times, so that a slow minute of the machine hits all sides alike; what is compared is
the ratio within a turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would slow the side whose turn it is
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


class SideError(Exception):
    """A side ended, or did not answer; the text is one line."""


class LeftOutError(Exception):
    """A side cannot run here: what it needs is not installed."""


class Asked(Protocol):
    """Who is asked for a turn."""

    def ask(self, word: str) -> dict[str, Any]:
        """One answer: seconds, tokens and memory of a ``go``, numbers of a ``sum``."""
        ...


@dataclass(frozen=True)
class Spread:
    """The middle of some figures, and between what they lie."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))


def turns(
    sides: Mapping[str, Asked], repeats: int, warm_up: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """The answers of each side to ``repeats`` turns, after some that are not counted."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for repeat in range(warm_up + repeats):
        for name, side in sides.items():
            answer = side.ask("go")
            if repeat >= warm_up:
                answers[name].append(answer)
    return answers


@dataclass(frozen=True)
class Several:
    """A side with several short goes a turn, of which it tells the mean time."""

    side: Asked
    goes: int

    def ask(self, word: str) -> dict[str, Any]:
        answers = [self.side.ask(word) for _ in range(self.goes)]
        mean = statistics.fmean(answer["seconds"] for answer in answers)
        return {**answers[-1], "seconds": mean}


def ratio(answers: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> Spread:
    """Seconds of one side over those of another, turn by turn."""
    pairs = zip(answers, others, strict=True)
    return Spread.of([one["seconds"] / other["seconds"] for one, other in pairs])


class Process:
    """A side in a process of its own.

    Attributes:
        machine: where it runs, as it says itself.
        details: what it says of itself once it is ready.
    """

    def __init__(
        self, name: str, spec: Mapping[str, Any], *, interpreter: str | None, patience: float
    ) -> None:
        """Start, and wait until it is ready.

        Raises:
            LeftOutError: what the side needs is not installed.
            SideError: it ended before it was ready.
        """
        self.name, self._patience = name, patience
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._folder = tempfile.TemporaryDirectory()
        self._process = start(name, interpreter, Path(self._folder.name), self._errors)
        try:
            self.machine = self._answer(json.dumps(spec))["machine"]
            self.details = self._answer()["details"]
        except BaseException:
            self.close()
            raise

    def ask(self, word: str) -> dict[str, Any]:
        return self._answer(word)

    def close(self) -> None:
        """End the process: it has no more lines to read."""
        with contextlib.suppress(OSError):
            self._pipe("stdin").close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe("stdout").close()
        self._errors.close()
        self._folder.cleanup()

    def _pipe(self, name: str) -> IO[str]:
        return getattr(self._process, name)

    def _answer(self, line: str | None = None) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):
            if line is not None:
                print(line, file=self._pipe("stdin"), flush=True)
        ready, _, _ = select.select([self._pipe("stdout")], [], [], self._patience)
        if not ready:
            raise SideError(f"{self.name}: no answer in {self._patience:g} seconds")
        answer = self._pipe("stdout").readline()
        if not answer:
            raise SideError(f"{self.name} ended: {self._last_words()}")
        told = json.loads(answer)
        if "left_out" in told:
            raise LeftOutError(f"{self.name} is left out: {told['left_out']}")
        return told

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


def start(
    name: str, interpreter: str | None, folder: Path, errors: IO[str], *words: str
) -> subprocess.Popen[str]:
    """A side's process; None is this interpreter.

    Another interpreter sees the package ``userdp.analysis`` alone, through a link in ``folder``.
    """
    places, where = [place or os.getcwd() for place in sys.path], None
    if interpreter is not None:
        (folder / "userdp").mkdir()
        (folder / "userdp" / "analysis").symlink_to(Path(__file__).parents[1].resolve())
        places, where = [str(folder)], folder
    return subprocess.Popen(
        [interpreter or sys.executable, "-m", "userdp.analysis.benchmark.worker", name, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=where,
        text=True,
        env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(places)},
    )


def tuned(
    name: str, spec: Mapping[str, Any], *, interpreter: str | None, patience: float
) -> dict[str, Any]:
    """What the side chooses for itself, tried in a process that leaves no memory behind.

    Raises:
        LeftOutError, SideError: as for a side that is to run.
    """
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as folder:
        process = start(name, interpreter, Path(folder), errors, "tune")
        try:
            answer, _ = process.communicate(json.dumps(spec) + "\n", timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            raise SideError(f"{name}: no batch size in {patience:g} seconds") from None
        if not answer:
            errors.seek(0)
            words = [line.strip() for line in errors if line.strip()]
            raise SideError(f"{name} ended: {words[-1][:300] if words else 'it said nothing'}")
    told = json.loads(answer)
    if "left_out" in told:
        raise LeftOutError(f"{name} is left out: {told['left_out']}")
    return told


@contextlib.contextmanager
def closing(processes: Mapping[str, Process]) -> Iterator[None]:
    """End them all, whatever happens between."""
    try:
        yield
    finally:
        for process in processes.values():
            process.close()
