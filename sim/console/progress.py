"""Shows the progress of a run on standard error."""

from __future__ import annotations

import math
import sys
from types import TracebackType
from typing import Self, TextIO

import rich.console
import rich.progress

Score = tuple[str, float]  # name and value, for example ("perplexity", 210.0)


class Progress:
    """A progress bar with epsilon and held-out score; in a file, ten lines over the whole run.

    >>> with Progress(30) as progress:
    ...     progress.update(1, epsilon=0.4)
    ...     progress.update(2, epsilon=0.5, score=("perplexity", 210.0))
    """

    def __init__(self, total_rounds: int, stream: TextIO | None = None) -> None:
        self._total, self._stream = total_rounds, stream or sys.stderr
        self._stride = max(1, total_rounds // 10)
        self._score: Score | None = None
        self._bar = _bar(self._stream) if self._stream.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._total, figures="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(
        self, number: int, *, epsilon: float | None = None, score: Score | None = None
    ) -> None:
        """Show that round ``number`` is over.

        Args:
            epsilon: upper value, spent so far; None where the run is not private.
            score: held out; None shows the last one again.
        """
        self._score = score if score is not None else self._score
        figures = _figures(epsilon, self._score)
        if self._bar is not None:
            self._bar.update(self._task, completed=number, figures=figures)
        elif number % self._stride == 0 or number == self._total:
            print(
                f"round {number}/{self._total}  {figures}".rstrip(), file=self._stream, flush=True
            )


def _bar(stream: TextIO) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[figures]}"),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(file=stream),
    )


def _figures(epsilon: float | None, score: Score | None) -> str:
    shown = [] if epsilon is None else [f"epsilon {up(epsilon)}"]
    return "  ".join(shown if score is None else [*shown, f"{score[0]} {score[1]:.4g}"])


def up(epsilon: float) -> str:
    """An upper value of epsilon in two decimals, rounded up."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}" if math.isfinite(epsilon) else "infinite"
