"""Shows the progress of a sweep in the terminal, read from the files that its jobs write.

On a terminal it is a live table with a row for each job; in a file or a pipe, a line is written
whenever the state of a job changes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import rich.console
import rich.live
import rich.table
import rich.text

from userdp.sim.common import plain_text
from userdp.sim.console import progress
from userdp.sim.sweep import jobs
from userdp.sim.sweep.jobs import Job

_SECONDS = 1.0  # between two updates
_MARGIN = 6  # lines of the terminal that are left free of jobs
_SCORES = ("perplexity", "accuracy")
_COLOURS = {"running": "bold", "failed": "red", "waiting": "dim"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """The state of a job."""

    state: str  # waiting, running, complete, failed
    round: int = 0
    epsilon: float | None = None
    score: str = ""

    @property
    def figures(self) -> str:
        """Epsilon and score as text; empty where there are none."""
        epsilon = [] if self.epsilon is None else [f"epsilon {progress.up(self.epsilon)}"]
        return ", ".join([*epsilon, *([self.score] if self.score else [])])


@dataclass
class LiveTable:
    """Shows the jobs of a sweep during a ``with`` block, which runs them."""

    jobs: Sequence[Job]
    stream: TextIO  # standard error
    _rows: dict[int, Row] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)  # bytes of each output at the start
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._sizes = {job.number: _size(job.folder.output) for job in self.jobs}
        self._rows = {job.number: self._row(job) for job in self.jobs}
        self._live = self._table_of(self.stream) if self.stream.isatty() else None
        if self._live is not None:
            self._live.start()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._update()
        if self._live is not None:
            self._live.stop()

    def _follow(self) -> None:
        while not self._stop.wait(_SECONDS):
            self._update()

    def _update(self) -> None:
        for job in self.jobs:
            before = self._rows[job.number]
            if before.state == "complete":
                continue
            row = self._rows[job.number] = self._row(job)
            if row.state != before.state and self._live is None:
                text = ", ".join(part for part in (row.state, row.figures) if part)
                line = plain_text.printable(f"job {job.number} ({job.name}): {text}")
                print(line, file=self.stream, flush=True)
        if self._live is not None:
            self._live.update(self._table())

    def _row(self, job: Job) -> Row:
        written = _last_written(job.folder.metrics)
        if job.folder.complete:
            return replace(written, state="complete")
        if jobs.failure_reason(job.folder) is not None:
            return replace(written, state="failed")
        begun = _size(job.folder.output) != self._sizes[job.number]
        return replace(written, state="running" if begun else "waiting")

    def _table_of(self, stream: TextIO) -> rich.live.Live:
        console = rich.console.Console(file=stream)
        return rich.live.Live(self._table(), console=console, refresh_per_second=1)

    def _table(self) -> rich.table.Table:
        counts = [
            f"{sum(row.state == state for row in self._rows.values())} {state}"
            for state in ("complete", "running", "waiting", "failed")
        ]
        table = rich.table.Table(box=None, title=", ".join(counts), title_justify="left")
        for name in ("job", "", "state", "round", "epsilon", "held out"):
            table.add_column(
                name, justify="right" if name in ("job", "round", "epsilon") else "left"
            )
        for job in self._in_view():
            row = self._rows[job.number]
            table.add_row(
                str(job.number),
                rich.text.Text(plain_text.printable(job.name)),  # its brackets are no markup
                row.state,
                f"{row.round}/{job.settings.rounds}",
                "" if row.epsilon is None else progress.up(row.epsilon),
                row.score,
                style=_COLOURS.get(row.state),
            )
        return table

    def _in_view(self) -> list[Job]:
        """As many jobs as the terminal has lines for, around the first that is running."""
        height = max(3, rich.console.Console(file=self.stream).height - _MARGIN)
        states = [self._rows[job.number].state for job in self.jobs]
        first = next((i for i, state in enumerate(states) if state in ("running", "waiting")), 0)
        start = max(0, min(first - height // 3, len(self.jobs) - height))
        return list(self.jobs[start : start + height])


def _last_written(path: Path) -> Row:
    """The last round, epsilon and held-out score in a file of metrics."""
    row = Row(state="waiting")
    for line in _lines(path):
        try:
            values = json.loads(line)
        except ValueError:  # the last line is not complete yet
            break
        epsilon = values.get("epsilon", values.get("summary/epsilon", row.epsilon))
        row = replace(row, round=values["round"], epsilon=epsilon)
        for name in _SCORES:
            if (value := values.get(f"heldout_{name}")) is not None:
                row = replace(row, score=f"{name} {value:.4g}")
    return row


def _lines(path: Path) -> list[str]:
    """The lines of a file; empty if there is no file."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # the job has not begun, or begins anew
        return []


def _size(path: Path) -> int:
    """Size of a file in bytes; -1 if there is no file."""
    return path.stat().st_size if path.exists() else -1
