"""`userdp report FOLDER`: one HTML page about a run or a sweep, its figures and tables beside it.

Reads the files of run folders at any depth, and changes nothing in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis import cells
from analysis import runs as run_folders
from analysis.reporting import (
    accounts,
    canaries,
    claim,
    frontier,
    groups,
    halting,
    kept,
    learning,
    noise,
    page,
    plot,
    table,
)
from analysis.reporting.axes import number
from analysis.reporting.plot import Section
from analysis.runs import Run
from sim.errors import ConfigurationError


def main(arguments: Sequence[str]) -> None:
    """Write the page of ``FOLDER [output=DIR]`` and say where it is.

    Raises:
        ConfigurationError: a wrong argument, no run in the folder, or a table that lacks a column.
    """
    folder, output = _asked(arguments)
    print(write(folder, output))


def _asked(arguments: Sequence[str]) -> tuple[Path, Path]:
    outputs = [item.partition("=")[2] for item in arguments if item.startswith("output=")]
    folders = [item for item in arguments if not item.startswith("output=")]
    if len(folders) != 1 or len(outputs) > 1 or "" in outputs:
        raise ConfigurationError(
            f"report {' '.join(arguments)}: name one folder of runs, and output=DIR if you want."
        )
    folder = Path(folders[0])
    if not folder.is_dir():
        raise ConfigurationError(f"report {folder}: there is no such folder; name one of runs.")
    return folder, Path(outputs[0]) if outputs else folder / "report"


def write(folder: Path, output: Path) -> Path:
    """Write report.html, runs.csv and figures/ into ``output``; returns the page's path.

    Raises:
        ConfigurationError: no run is at or below ``folder``, or a run's groups.csv or exposure.csv
            lacks a column.
    """
    runs = run_folders.read(folder)
    if not runs:
        raise ConfigurationError(
            f"report {folder}: no run there, at any depth; name the output= of a run or a sweep."
        )
    found = sections(runs)
    drawings = {p.name: plot.save(p, output / "figures") for s in found for p in s.plots}
    output.mkdir(parents=True, exist_ok=True)
    table.write(output / "runs.csv", [table.values(run) for run in runs])
    text = page.html(
        page.Page(
            title=_title(folder, single=len(runs) == 1),
            single=len(runs) == 1,
            first_lines=claim.first_lines(folder, runs),
            facts=page.facts(runs, _scores(runs)),
            sections=found,
            drawings=drawings,
            runs=runs,
        )
    )
    path = output / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _title(folder: Path, *, single: bool) -> str:
    """A sweep's folder; of a run, which is often only numbered, the folder above it too."""
    path = folder.resolve()
    return f"{path.parent.name}/{path.name}" if single else path.name


def sections(runs: Sequence[Run]) -> list[Section]:
    """The page's figures, in order."""
    tasks = cells.tasks(runs)
    return [
        frontier.curves(tasks),
        kept.section(tasks),
        frontier.by_k(tasks),
        accounts.section(tasks),
        noise.section(runs, tasks),
        halting.section(tasks),
        learning.section(tasks),
        groups.section(tasks),
        canaries.section(tasks),
    ]


def _scores(runs: Sequence[Run]) -> dict[str, str]:
    """Of each task: the base model's score, and the non-private one."""
    told = {}
    for task in cells.tasks(runs):
        plain = None if task.plain is None else task.plain.score
        for name, spread in (("base model", task.before), ("non-private", plain)):
            if spread is not None:
                title = task.title(f"{task.metric.label.capitalize()}, {name}")
                told[title] = number(spread.median)
    return told
