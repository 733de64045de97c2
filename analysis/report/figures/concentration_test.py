"""Figure of strategy=concentrated: how often the noised test for agreement passed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.report.figures import axes, style
from userdp.analysis.report.figures.figure import (
    Dots,
    Level,
    Line,
    Plot,
    Section,
    columns,
    draw_dots,
    draw_level,
    draw_line,
    rows,
)
from userdp.sim.run_folder.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOK = style.of("concentrated", "random")


def section(tasks: Sequence[Task]) -> Section:
    """Share of rounds passed by setting; for a single run instead its statistic, round by round."""
    tested = [c for task in tasks for c in task.cells if any(passes(run) for run in c.runs)]
    single = len(tested) == 1 and len(tested[0].runs) == 1
    plots = [_statistic(tested[0].first)] if single else [_rates(tested)] if tested else []
    return Section(
        name="halting",
        title="Halting rates",
        lead="strategy=concentrated releases a sharper mean where a noised test says that users "
        "agree. A failed test falls back to ordinary noise, or ends the run.",
        plots=plots,
        absent="no run used strategy=concentrated.",
    )


def passes(run: Run) -> list[float]:
    """1 for every round whose test passed, 0 for every round whose test failed."""
    return [value for _, value in run.series("test_passed")]


def halted(run: Run) -> bool:
    """Whether a failed test ended the run before its last planned round."""
    halts = run.statement.get("mechanism_details", {}).get("on_failure") == "halt"
    outcomes = passes(run)
    return halts and bool(outcomes) and outcomes[-1] == 0


def _label(cell: Cell) -> str:
    config = cell.first.config
    level = "no claim" if cell.level is None else f"epsilon {cell.level:g}"
    tau = config.get("strategy.tau")
    radius = "" if tau is None else f", tau {tau:g}"
    return f"{level}{radius}, {config.get('strategy.on_failure', '?')}"


def _rates(cells: Sequence[Cell]) -> Plot:
    spreads = [Spread.of([sum(p) / len(p) for run in c.runs if (p := passes(run))]) for c in cells]
    halts = [sum(map(halted, cell.runs)) for cell in cells]
    labels = [_label(cell) for cell in cells]
    dots = Dots(label="", look=_LOOK, spreads=dict(zip(labels, spreads, strict=True)))

    def draw(ax: Axes) -> None:
        draw_dots(ax, [dots], labels)
        ax.set_xlim(-0.03, 1.03)
        axes.percent(ax, "x")
        ax.set_xlabel("rounds whose test passed")

    counts = [
        f"{label}: {count} of {len(cell.runs)} halted"
        for label, count, cell in zip(labels, halts, cells, strict=True)
    ]
    return Plot(
        name="halting",
        title="Rounds that passed the test",
        note="Point: median over seeds; bar: their range. Runs ended by a failed test: "
        + "; ".join(counts)
        + ".",
        alt="; ".join(f"{n}: {s.median:.0%} passed" for n, s in zip(labels, spreads, strict=True)),
        columns=("setting", "passed (median)", "passed (min)", "passed (max)", "halted", "runs"),
        rows=[
            (label, s.median, s.low, s.high, count, len(cell.runs))
            for label, s, count, cell in zip(labels, spreads, halts, cells, strict=True)
        ],
        draw=draw,
    )


def _statistic(run: Run) -> Plot:
    """The noised statistic of each round beside the threshold to pass."""
    outcomes = passes(run)
    threshold = float(run.statement.get("mechanism_details", {}).get("test_threshold", 0))
    line = Line(
        label="noised statistic",
        look=_LOOK,
        points=[(n, Spread.of([v])) for n, v in run.series("test_statistic")],
    )
    level = Level(label="threshold to pass", spread=Spread.of([threshold]))

    def draw(ax: Axes) -> None:
        draw_line(ax, line)
        draw_level(ax, level)
        axes.whole(ax)
        ax.set_xlabel("round")
        ax.set_ylabel("test statistic (users in agreement)")

    rate = sum(outcomes) / len(outcomes)
    end = " A failed test ended the run." if halted(run) else ""
    return Plot(
        name="halting",
        title="The test, round by round",
        note=f"{rate:.0%} of {len(outcomes)} rounds passed.{end}",
        alt=f"{rate:.0%} of {len(outcomes)} rounds passed the threshold of {threshold:.4g}.{end}",
        columns=columns("round", "statistic"),
        rows=rows(line, level),
        draw=draw,
    )
