"""`userdp report FOLDER`: one HTML page about a run or a sweep, its figures and tables beside it.

Reads the files of run folders at any depth and does not change them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from userdp.analysis.aggregates import seed_groups
from userdp.analysis.report.figures import (
    audit_bounds,
    canary_exposure,
    concentration_test,
    epsilon_by_round,
    figure,
    gain_kept,
    group_disparity,
    learning_curves,
    noise_and_signal,
    privacy_utility,
    user_inference,
)
from userdp.analysis.report.figures.axes import number
from userdp.analysis.report.figures.figure import Plot, Section
from userdp.analysis.report.page import headline, html, run_table
from userdp.sim.common import durable_file, foreign_code
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run_folder import reader
from userdp.sim.run_folder.reader import Run


def main(arguments: Sequence[str]) -> None:
    """Write the page of ``FOLDER [output=DIR]`` and print its path.

    Raises:
        ConfigurationError: a wrong argument, no run in the folder, or a table that lacks a column.
    """
    folder, output = _folders(arguments)
    print(write(folder, output))


def _folders(arguments: Sequence[str]) -> tuple[Path, Path]:
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

    Code of another package, which a run names, is not loaded (`foreign_code`).

    Raises:
        ConfigurationError: no run is at or below ``folder``, or a run's groups.csv, exposure.csv or
            user_inference.csv lacks a column.
    """
    with foreign_code.named_by_a_run_folder():
        return _write(folder, output)


def _write(folder: Path, output: Path) -> Path:
    runs = reader.read(folder)
    if not runs:
        raise ConfigurationError(
            f"report {folder}: no run there, at any depth; name the output= of a run or a sweep."
        )
    page_sections = _told_apart(sections(runs))
    drawings = {p.name: figure.save(p, output / "figures") for s in page_sections for p in s.plots}
    run_table.write(output / "runs.csv", [run_table.values(run) for run in runs])
    text = html.html(
        html.Page(
            title=_title(folder, single=len(runs) == 1),
            single=len(runs) == 1,
            first_lines=headline.first_lines(folder, runs),
            facts=html.facts(runs, _scores(runs)),
            sections=page_sections,
            samples=html.written(runs),
            drawings=drawings,
            runs=runs,
        )
    )
    path = output / "report.html"
    durable_file.replace(path, text.encode())
    return path


def _title(folder: Path, *, single: bool) -> str:
    """The sweep's folder; for a run, which often has only a number, the folder above it too."""
    path = folder.resolve()
    return f"{path.parent.name}/{path.name}" if single else path.name


def sections(runs: Sequence[Run]) -> list[Section]:
    """The page's sections with their figures, in order.

    Raises:
        ConfigurationError: a run's groups.csv, exposure.csv or user_inference.csv lacks a column,
            or its audit.json cannot be read.
    """
    tasks = seed_groups.tasks(runs)
    return [
        privacy_utility.curves(tasks),
        gain_kept.section(tasks),
        privacy_utility.by_k(tasks),
        epsilon_by_round.section(tasks),
        noise_and_signal.section(runs, tasks),
        concentration_test.section(tasks),
        learning_curves.section(tasks),
        group_disparity.section(tasks),
        canary_exposure.section(tasks),
        user_inference.section(tasks),
        audit_bounds.section(runs),
    ]


def _told_apart(page_sections: Sequence[Section]) -> list[Section]:
    """The sections with a number after a plot's name that another plot has: it names files, ids."""
    seen: Counter[str] = Counter()

    def numbered(plot: Plot) -> Plot:
        seen[plot.name] += 1
        count = seen[plot.name]
        return plot if count == 1 else replace(plot, name=f"{plot.name}--{count}")

    return [replace(s, plots=[numbered(plot) for plot in s.plots]) for s in page_sections]


def _scores(runs: Sequence[Run]) -> dict[str, str]:
    """Label -> median score of the base model and of the best non-private runs, for each task."""
    scores = {}
    for task in seed_groups.tasks(runs):
        plain = None if task.plain is None else task.plain.score
        for name, spread in (("base model", task.before), ("non-private", plain)):
            if spread is not None:
                title = task.title(f"{task.metric.label.capitalize()}, {name}")
                scores[title] = number(spread.median)
    return scores
