"""Figure: epsilon by round under each accountant, recomputed from the run's statement."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.report.figures import axes, style
from userdp.analysis.report.figures.figure import Line, Plot, Section, columns, draw_line, rows
from userdp.sim.common import plain_text
from userdp.sim.run_folder.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from userdp.server.accounting import RoundEvent

_COUNTS = 10  # points of a curve; the slowest accountant takes half a second for each
_COINCIDE = 1.02  # ratio of epsilons below which two curves look like one


def section(tasks: Sequence[Task]) -> Section:
    """A figure for one run of each strategy: a run of the middle epsilon."""
    plots = [plot for cell in _chosen(tasks) if (plot := _plot(cell.first)) is not None]
    return Section(
        name="accountants",
        title="Epsilon by round",
        lead="What the rounds so far have spent, by the accountants that can analyse the mechanism."
        " All are upper bounds for the same noise: the lowest is the sharpest.",
        plots=plots,
        absent="no complete private run has more than one round.",
    )


def curve(
    event: RoundEvent, rounds: Sequence[int], statement: Mapping[str, Any], accountant: str
) -> list[tuple[float, float]]:
    """(rounds, upper epsilon) as far as the accountant has finite answers.

    Args:
        event: one event of the run.
        rounds: numbers of rounds, ascending.
        statement: the run's privacy statement, for delta and the rounds that one event covers.
        accountant: a name of the table of accountants.
    """
    rounds_per_event = statement.get("rounds_per_event", 1)
    bound = group_bound(accountant)
    points = [
        (float(n), _upper(event, -(-n // rounds_per_event), statement["delta"], accountant, bound))
        for n in rounds
    ]
    return [(n, upper) for n, upper in points if math.isfinite(upper)]


def group_bound(accountant: str) -> str:
    """How the accountant joins a user's slots: by their mixture where it can, else by the lemma."""
    from userdp.server.accounting import accountants

    return "mixture" if accountants.find(accountant).analyses_mixtures else "lemma"


@functools.lru_cache(maxsize=512)
def _upper(event: RoundEvent, events: int, delta: float, accountant: str, bound: str) -> float:
    """Upper epsilon of equal events; infinite where the accountant has no answer."""
    from userdp.server.accounting import epsilon

    try:
        with np.errstate(divide="ignore"):  # PRV divides by zero at sampling rate 1
            return epsilon([(event, events)], delta, accountant=accountant, group_bound=bound).upper
    except (ValueError, ArithmeticError):
        return math.inf


def event_of(statement: Mapping[str, Any]) -> RoundEvent:
    """The accounting event of one round, from a privacy statement."""
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
    """The cell in the middle of each strategy's epsilons; the first of equals."""
    groups: dict[str, list[Cell]] = {}
    for cell in (cell for task in tasks for cell in task.private):
        if cell.first.statement["rounds"] > 1:
            groups.setdefault(cell.first.strategy, []).append(cell)
    ordered = [sorted(cells, key=lambda c: c.epsilon or 0) for cells in groups.values()]
    return [cells[(len(cells) - 1) // 2] for cells in ordered]


def _counts(rounds: int) -> list[int]:
    """A few numbers of rounds up to all of them, closer together at the start."""
    return sorted({math.ceil(rounds * (i / _COUNTS) ** 2) for i in range(1, _COUNTS + 1)})


def _accountant_lines(event: RoundEvent, statement: Mapping[str, Any]) -> dict[str, Line]:
    """Accountant -> its line, for each that certifies its figures and has finite answers."""
    from userdp.server.accounting import accountants

    counts = _counts(statement["rounds"])
    names = accountants.certified_names()
    curves = {name: curve(event, counts, statement, name) for name in names}
    return {
        name: Line(
            label=name.upper(),
            look=style.numbered(number),
            points=[(x, Spread.of([y])) for x, y in points],
        )
        for number, (name, points) in enumerate(curves.items())
        if points
    }


def _plot(run: Run) -> Plot | None:
    """The figure of one run; None where no accountant has a finite answer."""
    statement, event = run.statement, event_of(run.statement)
    by_accountant = _accountant_lines(event, statement)
    if not by_accountant:
        return None
    rounds, curves = statement["rounds"], list(by_accountant.values())
    claim = [(float(rounds), Spread.of([statement["epsilon"]]))]
    lines = [*curves, Line(label="the statement's claim", look=style.CLAIM, points=claim)]

    def draw(ax: Axes) -> None:
        for line in lines:
            draw_line(ax, line)
        axes.logarithmic(ax, "y")
        axes.whole(ax)
        ax.set_xlabel("rounds")
        ax.set_ylabel(f"epsilon at delta = {statement['delta']:.2g}")

    ends = [f"{line.label}: {line.points[-1][1].median:.4g}" for line in lines]
    return Plot(
        name=plain_text.identifier(f"epsilon_rounds_{run.strategy}"),
        title=f"Epsilon by round: {run.strategy}",
        note=_parameters_note(run, event, by_accountant) + _curves_note(curves, rounds),
        alt=f"Epsilon after {rounds} rounds by {', '.join(ends)}.",
        columns=columns("round", "epsilon"),
        rows=rows(*lines),
        draw=draw,
    )


def _curves_note(curves: Sequence[Line], rounds: int) -> str:
    """Which curves lie on each other, and which end early for want of a finite answer."""
    ends = {line.label: line.points[-1][1].median for line in curves if _is_whole(line, rounds)}
    coinciding = [name for name, end in ends.items() if end < _COINCIDE * min(ends.values())]
    text = f" {_listed(coinciding)} nearly coincide." if len(coinciding) > 1 else ""
    short = [line.label for line in curves if not _is_whole(line, rounds)]
    if short:
        text += f" {_listed(short)} cannot certify more rounds than are shown."
    return text


def _is_whole(line: Line, rounds: int) -> bool:
    return line.points[-1][0] >= rounds


def _parameters_note(run: Run, event: RoundEvent, by_accountant: Mapping[str, Line]) -> str:
    """The run's parameters, and what the accountants make of several slots or rounds."""
    text = (
        f"Run {run.name}: q = {event.sampling_rate:.4g}, noise multiplier z = "
        f"{event.noise_multiplier:.4g}"
    )
    if event.group_size > 1:
        names: dict[str, list[str]] = {"mixture": [], "lemma": []}
        for accountant, line in by_accountant.items():
            names[group_bound(accountant)].append(line.label)
        ways = [
            (names["mixture"], "by their exact mixture"),
            (names["lemma"], "by the group lemma, which is loose"),
        ]
        joined = [f"{_listed(labels)} {way}" for labels, way in ways if labels]
        text += f", {event.group_size} slots a user, joined in {', in '.join(joined)}"
    if (together := run.statement.get("rounds_per_event", 1)) > 1:
        text += f". {together} rounds cost one event together"
    return text + "."


def _listed(names: Sequence[str]) -> str:
    """The names as a phrase.

    >>> _listed(["PLD"]), _listed(["PLD", "PRV", "RDP"])
    ('PLD', 'PLD, PRV and RDP')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
