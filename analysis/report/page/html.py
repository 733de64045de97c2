"""Renders the page of a report as one HTML file that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.analysis.report.figures.figure import Plot, Section
from userdp.analysis.report.page import inline_svg, run_table
from userdp.clients.generation.sample import Sample
from userdp.sim.common.plain_text import printable
from userdp.sim.run_folder import config_diff, labels, samples_file
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.run_folder.reader import Run

_FOLDER = Path(__file__).parent
_NAMED_RUNS = 3  # names of runs before "and n more"
_WITH_SAMPLES = 12  # runs of which samples are shown
_FACTS = {  # label -> configuration keys, of which the first that is set counts
    "Data": ("data.path", "data.format"),
    "Base model": ("model.path", "model.kind"),
    "Strategies": ("strategy.name",),
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """The samples of one run."""

    run: str
    private: bool
    samples: Sequence[Sample]


@dataclass(frozen=True, kw_only=True)
class Page:
    """The content of a page."""

    title: str
    single: bool  # one run, not a sweep
    first_lines: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    samples: Sequence[Written]
    drawings: Mapping[str, str]  # name of a plot -> text of its SVG file
    runs: Sequence[Run]


def html(page: Page) -> str:
    """The page's HTML; all texts in it are escaped except our own style, script and drawings."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [run_table.values(run) for run in page.runs]
    return environment.get_template("page.html.j2").render(
        page=page,
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
        drawn={plot.name: _inline(plot, page) for s in page.sections for plot in s.plots},
        columns=run_table.used(rows),
        rows=rows,
        shown=run_table.shown,
        unfinished=[run for run in page.runs if not run.complete],
        differing=config_diff.differing(page.runs),
        partial=config_diff.partial(page.runs),
        common=config_diff.common(page.runs),
        abridged=_abridged,
        printable=printable,
    )


def _inline(plot: Plot, page: Page) -> str:
    return inline_svg.svg(page.drawings[plot.name], name=plot.name, alt=plot.alt)


def _abridged(names: Sequence[str]) -> str:
    """The first names, and how many more there are.

    >>> _abridged(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - _NAMED_RUNS
    return ", ".join(names[:_NAMED_RUNS]) + (f" and {more} more" if more > 0 else "")


def facts(runs: Sequence[Run], scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The page's summary as (label, value): states of the runs, data, models, strategies, scores.

    Args:
        scores: label -> value of the reference scores, appended at the end.
    """
    states = {s: sum(run.state == s for run in runs) for s in ("complete", "incomplete", "failed")}
    facts = [("Runs", ", ".join(f"{n} {state}" for state, n in states.items() if n))]
    for label, keys in _FACTS.items():
        values = {_first_set(run, keys) for run in runs if run.config}
        if values:
            facts.append((label, ", ".join(sorted(values))))
    return [*facts, *((label, str(value)) for label, value in scores.items())]


def written(runs: Sequence[Run]) -> list[Written]:
    """The samples of the complete runs that have some, in order; of a sweep, of the first ones."""
    found = [
        Written(run=run.name, private=run.private, samples=samples)
        for run in runs
        if run.complete and (samples := samples_file.read(RunFolder(run.folder)))
    ]
    return found[:_WITH_SAMPLES]


def _first_set(run: Run, keys: Sequence[str]) -> str:
    """The value of the first key that the run has set; of a path, its short name."""
    values = [str(run.config[key]) for key in keys if run.config.get(key) is not None]
    return labels.short(values[0]) if values else "unknown"
