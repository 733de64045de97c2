"""Prints samples: what a base model writes, beside what it writes with the adapter."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence

import rich.console
import rich.table
import rich.text

from userdp.clients.generation.sample import Sample
from userdp.sim.common.plain_text import printable

_SHORT = 180  # characters of a text in the closing lines of a run
_NARROWEST = 40  # columns of a terminal


def print_closing(samples: Sequence[Sample], *, private: bool) -> None:
    """Print a run's samples before its outcome, each cut to a few lines."""
    if samples:
        title = "samples, after public prompts" if private else "NOT PRIVATE: samples"
        print(f"{title}\n{table([_shortened(one) for one in samples], width())}", flush=True)


def print_all(samples: Sequence[Sample]) -> None:
    """Print samples whole, with their line breaks."""
    print(table(samples, width()), flush=True)


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def table(samples: Sequence[Sample], columns: int) -> str:
    """Two columns of text, base and adapter, below a line for each prompt.

    Args:
        columns: width of the whole.
    """
    out = io.StringIO()
    console = rich.console.Console(file=out, width=columns, color_system=None, highlight=False)
    drawn = _grid("base model", "base model and adapter")
    for prompt in dict.fromkeys(sample.prompt for sample in samples):
        console.print(drawn)
        console.print(rich.text.Text(_heading(prompt)))
        drawn = _grid()
        for one in (sample for sample in samples if sample.prompt == prompt):
            drawn.add_row(*(rich.text.Text(_told(text)) for text in (one.base, one.adapter)))
            drawn.add_row("", "")
    console.print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _grid(*titles: str) -> rich.table.Table:
    grid = rich.table.Table.grid(padding=(0, 3, 0, 0), expand=True)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_column(ratio=1, overflow="fold")
    if titles:
        grid.add_row(*titles)
    return grid


def _heading(prompt: str) -> str:
    if not prompt:
        return "> (the beginning of a text)"
    return "> " + _told(prompt).replace("\n", "\n> ")


def _told(text: str) -> str:
    """Printable, without blank lines at either end."""
    return printable(text.expandtabs(4)).strip("\n") or "(nothing)"


def _shortened(sample: Sample) -> Sample:
    return Sample(*(_one_line(text) for text in sample.texts()))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else line[:_SHORT].rsplit(" ", 1)[0] + " ..."
