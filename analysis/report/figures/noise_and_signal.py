"""Noise and signal of the released mean: figures that the run itself may publish.

A release is the true mean plus Gaussian noise of known standard deviation s in each of D
coordinates, so ``E |release|^2 = |signal|^2 + D s^2``. A round's estimate is cut at zero; over many
rounds, ``mean |release|^2 - D s^2`` is an unbiased estimate of the mean square signal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.aggregates.series import named
from userdp.analysis.report.figures import axes as scales
from userdp.analysis.report.figures import style
from userdp.analysis.report.figures.figure import Line, Plot, Section, columns, draw_line, rows
from userdp.sim.run_folder.reader import SIMULATION_ONLY, Row, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = ("noise_std_on_mean", "release_norm", "signal_norm")
_UPDATE = f"{SIMULATION_ONLY}mean_update_norm"


def section(runs: Sequence[Run], tasks: Sequence[Task]) -> Section:
    """For one run its rounds; for a sweep a point for each setting."""
    known = [run for run in runs if run.complete and noise_norms(run)]
    single = len(runs) == 1
    plots = [_rounds(run) for run in known] if single else [p for t in tasks for p in _points(t)]
    return Section(
        name="noise",
        title="Noise and signal",
        lead="Lengths (L2 norms over all adapter weights) of the noise that is added to a round's "
        "mean update and of the mean update itself, estimated from the release alone.",
        plots=plots,
        absent="" if plots else "no run here adds noise and logged its releases.",
    )


def dimensions(rounds: Sequence[Row]) -> float | None:
    """D, from ``signal^2 = release^2 - D s^2``; None where no round's signal is above zero."""
    found = [
        (row["release_norm"] ** 2 - row["signal_norm"] ** 2) / row["noise_std_on_mean"] ** 2
        for row in rounds
        if row["signal_norm"] > 0
    ]
    return statistics.median(found) if found else None


def noise_norms(run: Run) -> list[tuple[int, float]]:
    """(round, expected norm of the noise on the mean, sqrt(D) s); empty where it is unknown."""
    rounds = _noised(run)
    size = dimensions(rounds)
    if size is None:
        return []
    return [(row["round"], math.sqrt(size) * row["noise_std_on_mean"]) for row in rounds]


def signal(run: Run) -> float:
    """Root mean square signal over the rounds, estimated without bias before the root."""
    releases = [row["release_norm"] ** 2 for row in _noised(run)]
    noises = [norm**2 for _, norm in noise_norms(run)]
    return math.sqrt(max(0.0, statistics.fmean(releases) - statistics.fmean(noises)))


def _noised(run: Run) -> list[Row]:
    return [r for r in run.rows if all(r.get(n) is not None for n in _NAMES) and r[_NAMES[0]] > 0]


def _rounds(run: Run) -> Plot:
    """One run, round by round."""
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

    def draw(axes: Axes) -> None:
        for line in lines:
            draw_line(axes, line)
        axes.set_ylim(bottom=0)
        scales.whole(axes)
        axes.set_xlabel("round")
        axes.set_ylabel("L2 norm of the adapter's update")

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
    """A sweep: signal against noise, a point for each setting."""
    found = [_point(cell) for cell in task.private if all(noise_norms(r) for r in cell.runs)]
    if not found:
        return []
    names = named(task, {(c.strategy, c.selection) for c, _, _ in found})

    def draw(axes: Axes) -> None:
        told = set()
        for cell, noise, spread in found:
            key = (cell.strategy, cell.selection)
            label = None if key in told else names[key]
            told.add(key)
            look = style.of(*key)
            axes.plot(noise, spread.median, look.marker, color=look.colour, label=label, ms=6)
            axes.vlines(noise, spread.low, spread.high, color=look.colour, alpha=0.6)
        _diagonal(axes)
        axes.set_xlabel("L2 norm of the noise on the mean, expected")
        axes.set_ylabel("L2 norm of the signal, estimated")

    return [
        Plot(
            name=task.file("noise signal"),
            title=task.title("Signal against noise"),
            note="Above the diagonal a round's signal is longer than its noise; a point far below "
            "it learns only by many rounds. The table has the ratio of every run.",
            alt="; ".join(_told(*point) for point in found),
            columns=("strategy", "selection", "k", "epsilon", "noise", "signal (median)", "runs"),
            rows=[
                (c.strategy, c.selection, c.k, c.epsilon, noise, s.median, s.count)
                for c, noise, s in found
            ],
            draw=draw,
        )
    ]


def _point(cell: Cell) -> tuple[Cell, float, Spread]:
    noises = [norm for run in cell.runs for _, norm in noise_norms(run)]
    return cell, statistics.fmean(noises), Spread.of([signal(run) for run in cell.runs])


def _told(cell: Cell, noise: float, spread: Spread) -> str:
    return (
        f"{cell.strategy}, {cell.selection}, k = {cell.k}, epsilon {cell.level:g}: noise "
        f"{noise:.3g}, signal {spread.median:.3g}"
    )


def _diagonal(axes: Axes) -> None:
    """Where signal equals noise, on axes that show both from zero."""
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    reach = max(right, top)
    axes.plot([0, reach], [0, reach], color=style.MUTED, linewidth=1, label="signal = noise")
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
