"""Figure: lower bounds on epsilon that `userdp audit` measured, beside the claim of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from userdp.analysis.aggregates.seed_groups import Spread
from userdp.analysis.report.figures import style
from userdp.analysis.report.figures.figure import Dots, Plot, Section, draw_dots
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.run_folder.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_QUANTITY = "epsilon"  # of the findings that are drawn


def section(runs: Sequence[Run]) -> Section:
    """One row for each audited run: its claim, and what each check measured.

    Raises:
        ConfigurationError: an ``audit.json`` cannot be read.
    """
    audited = {run.name: values for run in runs if (values := _stored(run)) is not None}
    return Section(
        name="audit",
        title="Audit",
        lead="Canary users went through the mechanism of the run. Each mark is the epsilon that is "
        "leaked at least, measured without trusting the accounting; a correct mechanism stays "
        "below its claim.",
        plots=[_plot(audited)] if audited else [],
        absent="no run was audited (userdp audit RUN).",
    )


def _stored(run: Run) -> Mapping[str, Any] | None:
    """The stored audit of a run; None where there is none."""
    path = RunFolder(run.folder).audit
    if not path.is_file():
        return None
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values["epsilon"], values["broken"], [_bounds(values)]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path}: no outcome of an audit ({error}); delete it, or run userdp audit again."
        ) from None
    return values


def _bounds(values: Mapping[str, Any]) -> dict[str, float]:
    """Lower bound at 95 % of each check that bounds epsilon, by its name."""
    return {
        finding["check"]: float(finding["measured"])
        for finding in values["findings"]
        if finding["quantity"] == _QUANTITY and finding["decisive"] is not None
    }


def _plot(audited: Mapping[str, Mapping[str, Any]]) -> Plot:
    claims = {name: Spread.of([float(values["epsilon"])]) for name, values in audited.items()}
    measured = {name: _bounds(values) for name, values in audited.items()}
    checks = list(dict.fromkeys(check for found in measured.values() for check in found))
    marks = [
        Dots(
            label=check,
            look=style.numbered(number),
            spreads={
                n: Spread.of([found[check]]) for n, found in measured.items() if check in found
            },
        )
        for number, check in enumerate(checks)
    ]
    series = [Dots(label="claimed", look=style.CLAIM, spreads=claims), *marks]

    def draw(ax: Axes) -> None:
        draw_dots(ax, series, list(audited))
        ax.set_xlim(left=0)
        ax.set_xlabel("epsilon")

    broken = [name for name, values in audited.items() if values["broken"]]
    verdict = f"BROKEN: {', '.join(broken)}." if broken else "No check contradicts a claim."
    return Plot(
        name="audit",
        title="Claimed epsilon and audited lower bounds",
        note=f"{verdict} Bounds at 95 % confidence; a bound far below the claim proves nothing.",
        alt=f"{verdict} "
        + "; ".join(
            f"{name}: claimed {claims[name].median:.3g}, measured up to "
            f"{max(found.values(), default=0.0):.3g}"
            for name, found in measured.items()
        ),
        columns=("series", "run", "epsilon"),
        rows=[(d.label, name, s.median) for d in series for name, s in d.spreads.items()],
        draw=draw,
    )
