"""Runs the sides of a benchmark as processes that take turns.

A side waits in a read while another one works. All are asked in turn, once for warm-up and then
``repeats`` times, so that a slow minute of the machine affects all sides alike; sides are compared
by the ratio within a turn.
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
_SECONDS_TO_END = 20
_ERROR_LENGTH = 300  # characters of a side's last line that are shown


class SideError(Exception):
    """A side ended or did not answer; the text is one line."""


class LeftOutError(Exception):
    """A side cannot run here because a package is not installed."""


class Askable(Protocol):
    """A side that takes turns."""

    def ask(self, word: str) -> dict[str, Any]:
        """The answer to a word: seconds, tokens and memory of a "go", numbers of a "sum"."""
        ...


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """The spread of at least one figure."""
        return cls(statistics.median(figures), min(figures), max(figures))


def turns(
    sides: Mapping[str, Askable], repeats: int, warm_up: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """The answers of each side to ``repeats`` turns, after ``warm_up`` turns that do not count."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for repeat in range(warm_up + repeats):
        for name, side in sides.items():
            answer = side.ask("go")
            if repeat >= warm_up:
                answers[name].append(answer)
    return answers


@dataclass(frozen=True)
class Repeated:
    """A side that does several short rounds in a turn and answers with their mean time."""

    side: Askable
    rounds: int

    def ask(self, word: str) -> dict[str, Any]:
        """The last answer, with the mean of all seconds."""
        answers = [self.side.ask(word) for _ in range(self.rounds)]
        mean = statistics.fmean(answer["seconds"] for answer in answers)
        return {**answers[-1], "seconds": mean}


def ratio(answers: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> Spread:
    """Seconds of one side over those of another, turn by turn."""
    pairs = zip(answers, others, strict=True)
    return Spread.of([one["seconds"] / other["seconds"] for one, other in pairs])


class Process:
    """A side in a process of its own.

    Attributes:
        machine: the machine and packages it runs on, by its own report.
        details: its settings, reported once it is ready.
    """

    def __init__(
        self, name: str, spec: Mapping[str, Any], *, interpreter: str | None, patience: float
    ) -> None:
        """Start the side and wait until it is ready.

        Args:
            spec: the first line that it reads (`cases.line`).
            interpreter: path of a Python; None is this one.
            patience: seconds to wait for one answer.

        Raises:
            LeftOutError: a package that the side needs is not installed.
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
        """The answer to a word of `userdp.analysis.benchmark.peers.side`.

        Raises:
            SideError: the side ended, or did not answer in time.
        """
        return self._answer(word)

    def close(self) -> None:
        """End the process: it stops when its input is closed."""
        with contextlib.suppress(OSError):
            self._pipe("stdin").close()
        try:
            self._process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe("stdout").close()
        self._errors.close()
        self._folder.cleanup()

    def _pipe(self, name: str) -> IO[str]:
        pipe: IO[str] = getattr(self._process, name)
        return pipe

    def _answer(self, line: str | None = None) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):
            if line is not None:
                print(line, file=self._pipe("stdin"), flush=True)
        ready, _, _ = select.select([self._pipe("stdout")], [], [], self._patience)
        if not ready:
            raise SideError(f"{self.name}: no answer in {self._patience:g} seconds")
        return _parsed(self.name, self._pipe("stdout").readline(), self._errors)


def _parsed(name: str, answer: str, errors: IO[str]) -> dict[str, Any]:
    """A side's answer, one line of JSON.

    Raises:
        LeftOutError: the side says that it cannot run here.
        SideError: there is no line, because the side ended; its last words are in ``errors``.
    """
    if not answer:
        errors.seek(0)
        lines = [line.strip() for line in errors if line.strip()]
        last = lines[-1][:_ERROR_LENGTH] if lines else "it printed nothing"
        raise SideError(f"{name} ended: {last}")
    values: dict[str, Any] = json.loads(answer)
    if "left_out" in values:
        raise LeftOutError(f"{name} is left out: {values['left_out']}")
    return values


def start(
    name: str, interpreter: str | None, folder: Path, errors: IO[str], *words: str
) -> subprocess.Popen[str]:
    """Start a side's process.

    Args:
        name: of the side, a key of `worker.SIDES`.
        interpreter: path of a Python; None is this one. Another one sees the package
            ``userdp.analysis`` only, by a link in ``folder``: userdp is not installed there.
        folder: an empty folder.
        errors: file for its standard error.
        words: further arguments of the worker.
    """
    import_path, working_folder = [place or os.getcwd() for place in sys.path], None
    if interpreter is not None:
        (folder / "userdp").mkdir()
        (folder / "userdp" / "analysis").symlink_to(Path(__file__).parents[1].resolve())
        import_path, working_folder = [str(folder)], folder
    return subprocess.Popen(
        [interpreter or sys.executable, "-m", "userdp.analysis.benchmark.worker", name, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=working_folder,
        text=True,
        env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(import_path)},
    )


def tuned(
    name: str, spec: Mapping[str, Any], *, interpreter: str | None, patience: float
) -> dict[str, Any]:
    """The settings that the side chooses for itself, as its batch size.

    They are tried in a process of their own, which leaves no memory behind.

    Args:
        spec, interpreter, patience: as for `Process`.

    Raises:
        LeftOutError: a package that the side needs is not installed.
        SideError: it ended, or did not answer in time.
    """
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as folder:
        process = start(name, interpreter, Path(folder), errors, "tune")
        try:
            answer, _ = process.communicate(json.dumps(spec) + "\n", timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            raise SideError(f"{name}: no batch size in {patience:g} seconds") from None
        return _parsed(name, answer, errors)


@contextlib.contextmanager
def closing(sides: Mapping[str, Process]) -> Iterator[None]:
    """End all sides when the block ends, also by an error."""
    try:
        yield
    finally:
        for side in sides.values():
            side.close()
