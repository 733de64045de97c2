"""Figure: noise and signal of the released mean, from figures that the run itself may publish.

A release is the true mean plus Gaussian noise of known standard deviation s in each of D
coordinates, so ``E |release|^2 = |signal|^2 + D s^2``. One round's estimate of the signal is cut at
zero; over many rounds, ``mean |release|^2 - D s^2`` is an unbiased estimate of the mean square
signal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.aggregates.series import named
from userdp.analysis.report.figures import axes, style
from userdp.analysis.report.figures.figure import Line, Plot, Section, columns, draw_line, rows
from userdp.sim.run_folder.reader import SIMULATION_ONLY, Row, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = ("noise_std_on_mean", "release_norm", "signal_norm")
_UPDATE = f"{SIMULATION_ONLY}mean_update_norm"


def section(runs: Sequence[Run], tasks: Sequence[Task]) -> Section:
    """The rounds of a single run, or one point for each setting of a sweep."""
    known = [run for run in runs if run.complete and noise_norms(run)]
    single = len(runs) == 1
    plots = [_rounds(run) for run in known] if single else [p for t in tasks for p in _points(t)]
    return Section(
        name="noise",
        title="Noise and signal",
        lead="Lengths (L2 norms over all adapter weights) of the noise that is added to a round's "
        "mean update and of the mean update itself, estimated from the release alone.",
        plots=plots,
        absent="no run here adds noise and logged its releases.",
    )


def dimensions(rounds: Sequence[Row]) -> float | None:
    """D, from ``signal^2 = release^2 - D s^2``; None where no round has a signal above zero."""
    estimates = [
        (row["release_norm"] ** 2 - row["signal_norm"] ** 2) / row["noise_std_on_mean"] ** 2
        for row in rounds
        if row["signal_norm"] > 0
    ]
    return statistics.median(estimates) if estimates else None


def noise_norms(run: Run) -> list[tuple[int, float]]:
    """(round, expected norm of the noise on the mean, sqrt(D) s); empty where it is unknown."""
    rounds = _noised_rounds(run)
    size = dimensions(rounds)
    if size is None:
        return []
    return [(row["round"], math.sqrt(size) * row["noise_std_on_mean"]) for row in rounds]


def signal(run: Run) -> float:
    """Root mean square signal over the rounds, estimated without bias before the root."""
    releases = [row["release_norm"] ** 2 for row in _noised_rounds(run)]
    noises = [norm**2 for _, norm in noise_norms(run)]
    return math.sqrt(max(0.0, statistics.fmean(releases) - statistics.fmean(noises)))


def _noised_rounds(run: Run) -> list[Row]:
    return [
        row
        for row in run.rows
        if all(row.get(name) is not None for name in _NAMES) and row["noise_std_on_mean"] > 0
    ]


def _rounds(run: Run) -> Plot:
    """The figure of one run, round by round."""
    parts = {
        "noise, expected": noise_norms(run),
        "released mean (signal and noise)": run.series("release_norm"),
        "signal, estimated": run.series("signal_norm"),
        "one user's update before the clip (simulation_only)": run.series(_UPDATE),
    }
    lines = [
        Line(
            label=label,
            look=style.numbered(number),
            points=[(n, Spread.of([value])) for n, value in points],
        )
        for number, (label, points) in enumerate(parts.items())
        if points
    ]

    def draw(ax: Axes) -> None:
        for line in lines:
            draw_line(ax, line)
        ax.set_ylim(bottom=0)
        axes.whole(ax)
        ax.set_xlabel("round")
        ax.set_ylabel("L2 norm of the adapter's update")

    return Plot(
        name="noise_signal",
        title="Noise and signal by round",
        note="Where a round's estimate of the signal is zero, the noise hid it.",
        alt=f"Expected noise norm {lines[0].points[-1][1].median:.4g}; "
        f"root mean square signal {signal(run):.4g}.",
        columns=columns("round", "norm"),
        rows=rows(*lines),
        draw=draw,
        simulation_only=bool(run.series(_UPDATE)),
    )


def _points(task: Task) -> list[Plot]:
    """The figure of a sweep: signal against noise, a point for each setting."""
    points = [_point(cell) for cell in task.private if all(noise_norms(r) for r in cell.runs)]
    if not points:
        return []
    names = named(task, {(c.strategy, c.selection) for c, _, _ in points})

    def draw(ax: Axes) -> None:
        labelled = set()
        for cell, noise, spread in points:
            key = (cell.strategy, cell.selection)
            label = None if key in labelled else names[key]
            labelled.add(key)
            look = style.of(*key)
            ax.plot(noise, spread.median, look.marker, color=look.colour, label=label, ms=6)
            ax.vlines(noise, spread.low, spread.high, color=look.colour, alpha=0.6)
        _diagonal(ax)
        ax.set_xlabel("L2 norm of the noise on the mean, expected")
        ax.set_ylabel("L2 norm of the signal, estimated")

    return [
        Plot(
            name=task.file("noise signal"),
            title=task.title("Signal against noise"),
            note="Above the diagonal a round's signal is longer than its noise; a point far below "
            "it learns only by many rounds. The table has the ratio of every run.",
            alt="; ".join(_description(*point) for point in points),
            columns=("strategy", "selection", "k", "epsilon", "noise", "signal (median)", "runs"),
            rows=[
                (c.strategy, c.selection, c.k, c.epsilon, noise, s.median, s.count)
                for c, noise, s in points
            ],
            draw=draw,
        )
    ]


def _point(cell: Cell) -> tuple[Cell, float, Spread]:
    """A cell, the mean noise norm of its rounds, and its signal's spread over seeds."""
    noises = [norm for run in cell.runs for _, norm in noise_norms(run)]
    return cell, statistics.fmean(noises), Spread.of([signal(run) for run in cell.runs])


def _description(cell: Cell, noise: float, spread: Spread) -> str:
    return (
        f"{cell.strategy}, {cell.selection}, k = {cell.k}, epsilon {cell.level:g}: noise "
        f"{noise:.3g}, signal {spread.median:.3g}"
    )


def _diagonal(ax: Axes) -> None:
    """Draw where signal equals noise, on axes that both start at zero."""
    right, top = ax.get_xlim()[1], ax.get_ylim()[1]
    reach = max(right, top)
    ax.plot([0, reach], [0, reach], color=style.MUTED, linewidth=1, label="signal = noise")
    ax.set_xlim(0, right)
    ax.set_ylim(0, top)
