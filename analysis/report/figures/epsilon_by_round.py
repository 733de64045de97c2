"""Epsilon against rounds under each accountant, computed from what the statement says was run."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.report.figures import axes as scales
from userdp.analysis.report.figures import style
from userdp.analysis.report.figures.figure import Line, Plot, Section, columns, draw_line, rows
from userdp.sim.run_folder.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from userdp.server.accounting import RoundEvent

# Name of a line -> accountant, and how it joins the slots of a user who has several.
_LINES: Mapping[str, tuple[str, str]] = {
    "PLD": ("pld", "mixture"),
    "PRV": ("prv", "lemma"),
    "RDP": ("rdp", "lemma"),
}
_COUNTS = 10  # points of a curve; the PRV takes half a second for each


def section(tasks: Sequence[Task]) -> Section:
    """A figure for one run of each strategy: that of the middle epsilon."""
    plots = [plot for cell in _chosen(tasks) if (plot := _plot(cell.first)) is not None]
    return Section(
        name="accountants",
        title="Epsilon by round",
        lead="What the rounds so far have spent, by the accountants that can analyse the mechanism."
        " All are upper bounds for the same noise: the lowest is the sharpest.",
        plots=plots,
        absent="" if plots else "no complete run has an epsilon.",
    )


def curve(
    event: RoundEvent, rounds: Sequence[int], statement: Mapping[str, Any], line: str
) -> list[tuple[float, float]]:
    """(rounds, upper epsilon), as far as the accountant has finite answers."""
    together = statement.get("rounds_per_event", 1)
    found = [
        (float(count), _upper(event, -(-count // together), statement["delta"], *_LINES[line]))
        for count in rounds
    ]
    return [(count, upper) for count, upper in found if math.isfinite(upper)]


@functools.lru_cache(maxsize=512)
def _upper(event: RoundEvent, events: int, delta: float, accountant: str, bound: str) -> float:
    """Infinite where the accountant has no answer."""
    from userdp.server.accounting import epsilon

    try:
        with np.errstate(divide="ignore"):  # the PRV's, where every user takes part
            return epsilon([(event, events)], delta, accountant=accountant, group_bound=bound).upper
    except (ValueError, ArithmeticError):
        return math.inf


def event_of(statement: Mapping[str, Any]) -> RoundEvent:
    """One round of the run, as the accountants see it."""
    from userdp.server.accounting import RoundEvent

    capped = statement["sampling"]["cap"] is not None
    details = statement.get("mechanism_details", {})
    slots = statement["clipped_unit"] == "record_slot"
    return RoundEvent(
        sampling_rate=statement["sampling"]["rate"],
        noise_multiplier=statement["noise_multiplier"],
        group_size=statement["records_per_user"] if slots else 1,
        population=statement["declared_users"] if capped else None,
        cohort_cap=statement["sampling"]["cap"],
        failure_probability=details.get("failure_probability", 0.0),
    )


def _chosen(tasks: Sequence[Task]) -> list[Cell]:
    """Of each strategy the cell in the middle of its epsilons; the first of equals."""
    groups: dict[str, list[Cell]] = {}
    for cell in (cell for task in tasks for cell in task.private):
        if cell.first.statement["rounds"] > 1:
            groups.setdefault(cell.first.strategy, []).append(cell)
    middle = [sorted(cells, key=lambda c: c.epsilon or 0) for cells in groups.values()]
    return [cells[(len(cells) - 1) // 2] for cells in middle]


def _counts(rounds: int) -> list[int]:
    """A few numbers of rounds up to all of them, closer together at the start."""
    return sorted({math.ceil(rounds * (i / _COUNTS) ** 2) for i in range(1, _COUNTS + 1)})


def _plot(run: Run) -> Plot | None:
    told = run.statement
    event, counts = event_of(told), _counts(told["rounds"])
    curves = {name: curve(event, counts, told, name) for name in _LINES}
    lines = [
        Line(
            label=name,
            look=style.numbered(number),
            points=[(x, Spread.of([y])) for x, y in curves[name]],
        )
        for number, name in enumerate(_LINES)
        if curves[name]
    ]
    if not lines:
        return None
    claim = [(float(told["rounds"]), Spread.of([told["epsilon"]]))]
    lines.append(Line(label="the statement's claim", look=style.CLAIM, points=claim))

    def draw(axes: Axes) -> None:
        for line in lines:
            draw_line(axes, line)
        scales.logarithmic(axes, "y")
        scales.whole(axes)
        axes.set_xlabel("rounds")
        axes.set_ylabel(f"epsilon at delta = {told['delta']:.2g}")

    ends = [f"{line.label}: {line.points[-1][1].median:.4g}" for line in lines]
    return Plot(
        name=f"epsilon_rounds_{run.strategy}",
        title=f"Epsilon by round: {run.strategy}",
        note=_note(run, event) + _remarks(lines, told["rounds"]),
        alt=f"Epsilon after {told['rounds']} rounds by {', '.join(ends)}.",
        columns=columns("round", "epsilon"),
        rows=rows(*lines),
        draw=draw,
    )


def _remarks(lines: Sequence[Line], rounds: int) -> str:
    """Which curves lie on each other, and which end early for want of a finite answer."""
    ends = {line.label: line.points[-1] for line in lines}
    pld, prv = ends.get("PLD"), ends.get("PRV")
    same = pld and prv and pld[0] == prv[0] and prv[1].median < 1.02 * pld[1].median
    text = " PLD and PRV nearly coincide." if same else ""
    short = [line.label for line in lines if line.points[-1][0] < rounds]
    if short:
        text += f" {' and '.join(short)} cannot certify more rounds than are shown."
    return text


def _note(run: Run, event: RoundEvent) -> str:
    told = run.statement
    text = (
        f"Run {run.name}: q = {event.sampling_rate:.4g}, noise multiplier z = "
        f"{event.noise_multiplier:.4g}"
    )
    if event.group_size > 1:
        text += (
            f", {event.group_size} slots a user. PRV and RDP know no mixture of slots and go "
            "through the group lemma, which is loose; PLD analyses the mixture itself"
        )
    if (together := told.get("rounds_per_event", 1)) > 1:
        text += f". {together} rounds cost one event together"
    return text + "."
