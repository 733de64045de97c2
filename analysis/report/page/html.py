"""From sections, runs and first lines to one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.analysis.aggregates import seed_groups
from userdp.analysis.report.figures.figure import Plot, Section
from userdp.analysis.report.page import inline_svg, run_table
from userdp.sim.run_folder import config_diff
from userdp.sim.run_folder.reader import Run

_HERE = Path(__file__).parent
_TELLING = 3  # names of runs before "and n more"


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the template is given."""

    title: str
    single: bool  # of one run, not a sweep
    first_lines: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    drawings: Mapping[str, str]  # name of a plot -> its SVG file's text
    runs: Sequence[Run]


def html(page: Page) -> str:
    """The page. Every text in it is escaped but our own style, script and drawings."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [run_table.values(run) for run in page.runs]
    return environment.get_template("page.html.j2").render(
        page=page,
        style=(_HERE / "page.css").read_text(),
        script=(_HERE / "page.js").read_text(),
        drawn={plot.name: _inline(plot, page) for s in page.sections for plot in s.plots},
        columns=run_table.used(rows),
        rows=rows,
        shown=run_table.shown,
        unfinished=[run for run in page.runs if not run.complete],
        differing=config_diff.differing(page.runs),
        partial=config_diff.partial(page.runs),
        common=config_diff.common(page.runs),
        some=_some,
    )


def _inline(plot: Plot, page: Page) -> str:
    return inline_svg.svg(page.drawings[plot.name], name=plot.name, alt=plot.alt)


def _some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - _TELLING
    return ", ".join(names[:_TELLING]) + (f" and {more} more" if more > 0 else "")


def facts(runs: Sequence[Run], best: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the page is of, at a glance: label and value."""
    states = {s: sum(run.state == s for run in runs) for s in ("complete", "incomplete", "failed")}
    counted = ", ".join(f"{n} {state}" for state, n in states.items() if n)
    found = [("Runs", counted)]
    for label, keys in _FACTS.items():
        values = {_first(run, keys) for run in runs if run.config}
        if values:
            found.append((label, ", ".join(sorted(values))))
    return [*found, *((label, str(value)) for label, value in best.items())]


def _first(run: Run, keys: Sequence[str]) -> str:
    """The first of the keys that the run has set; of a path, its own name."""
    known = [str(run.config[key]) for key in keys if run.config.get(key) is not None]
    return seed_groups.short(known[0]) if known else "unknown"


_FACTS = {
    "Data": ("data.path", "data.format"),
    "Base model": ("model.path", "model.kind"),
    "Strategies": ("strategy.name",),
}
