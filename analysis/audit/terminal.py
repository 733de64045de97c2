"""Shows an audit on a terminal: progress on standard error, then a table of findings."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import rich.box
import rich.console
import rich.progress
import rich.table

from userdp.analysis.audit.audit import Outcome
from userdp.analysis.audit.finding import Finding
from userdp.analysis.audit.repeated import Tick

WIDTH = 118  # columns of a table in a file or a pipe
_COLOURS = {"BROKEN": "bold red", "holds": "green", "estimate": "dim"}


@contextmanager
def progress(total: int, title: str) -> Iterator[Tick]:
    """A progress bar that ticks up to ``total``; in a file, one line at its beginning."""
    if not sys.stderr.isatty():
        print(f"userdp audit: {title}", file=sys.stderr, flush=True)
        yield lambda _: None
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def print_outcome(outcome: Outcome) -> None:
    """Print the findings of one audit, and below them its verdict."""
    subject = outcome.subject
    table = _table("check", "of", "claim", "at 95 %", "decisive", "from", "s", "")
    for finding in outcome.findings:
        table.add_row(
            *(finding.check, finding.quantity, figure(finding.claim), figure(finding.measured)),
            *(figure(finding.decisive), finding.trials),
            *(f"{finding.seconds:.0f}", _coloured(finding.verdict)),
        )
    console = _console()
    console.print(
        f"userdp audit: {subject.name}, epsilon <= {figure(subject.epsilon)} at delta = "
        f"{subject.delta:g} claimed for {subject.rounds} rounds",
        highlight=False,
    )
    console.print(table)
    sure = max(finding.confidence or 0.0 for finding in outcome.findings)
    console.print(f"Decisive figures hold at {100 * sure:.5g} % each.", highlight=False)
    console.print(verdict(outcome), highlight=False)


def verdict(outcome: Outcome) -> str:
    """One sentence: whether a finding contradicts the claim, and at what risk of a false alarm."""
    if outcome.flagged:
        names = "; ".join(finding.check for finding in outcome.flagged)
        return f"BROKEN: {names}."
    return (
        f"No check contradicts the claim ({outcome.seconds:.0f} s). An audit bounds epsilon from "
        "below: it finds faults and proves no privacy."
    )


def print_self_test(rows: Sequence[Outcome]) -> None:
    """Print a table of broken twins, and the checks that caught each."""
    table = _table("mechanism", "claim", "measured", "caught by", "s", "")
    for outcome in rows:
        bound = max(finding.decisive or 0.0 for finding in _epsilons(outcome))
        caught = ", ".join(finding.check for finding in outcome.flagged) or "-"
        table.add_row(
            *(outcome.subject.name, figure(outcome.subject.epsilon), figure(bound), caught),
            *(f"{outcome.seconds:.0f}", _coloured("BROKEN" if outcome.flagged else "holds")),
        )
    _console().print(table)


def _epsilons(outcome: Outcome) -> list[Finding]:
    return [finding for finding in outcome.findings if finding.quantity == "epsilon"]


def figure(value: float | None) -> str:
    """A number in four digits, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else "infinite"


def _coloured(text: str) -> str:
    return f"[{_COLOURS[text]}]{text}[/]"


def _table(*columns: str) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE)
    for column in columns:
        numeric = column in ("claim", "measured", "at 95 %", "decisive", "s")
        table.add_column(column, justify="right" if numeric else "left")
    return table


def _console() -> rich.console.Console:
    return rich.console.Console(width=None if sys.stdout.isatty() else WIDTH)
