"""The first lines of the page: what a run claims, or what a sweep spent in all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from userdp.sim.run_folder import unnoised_values
from userdp.sim.run_folder.reader import Run


def of_run(run: Run) -> list[str]:
    """The claim in the statement's words and what it protects, or why there is no claim."""
    from userdp.server.statement import prose

    if not run.statement:
        spent = "" if run.epsilon is None else f" Epsilon so far: {run.epsilon:.4g}."
        return [f"No claim yet: {run.why}.{spent} userdp run resume=FOLDER continues a run."]
    claim, protected = prose.text(run.statement).split("\n\n")[:2]
    return [*_sentences(claim), protected]


def of_sweep(folder: Path) -> list[str]:
    """The composed epsilon of all runs on the same users, and that of repeat-and-select.

    Where it cannot be computed, because a ledger is missing, old or damaged, the line says why.
    """
    from userdp.sim.run_folder import composed_epsilon

    try:
        return list(composed_epsilon.of_sweep(folder).sentences)
    except (OSError, ValueError, KeyError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        return [f"What these runs spent together is not known, so nothing is claimed: {reason}"]


def first_lines(folder: Path, runs: Sequence[Run]) -> list[str]:
    """The lines of a run where the folder is a run's, else those of the sweep."""
    from userdp.server.statement import conditions

    if len(runs) == 1 and runs[0].folder.samefile(folder):
        lines = of_run(runs[0])
    else:
        lines = [*of_sweep(folder), *conditions.of_runs(run.statement for run in runs)]
    return [*lines, *_without_noise(runs)]


def _without_noise(runs: Sequence[Run]) -> list[str]:
    """A line about values without noise, if any process of a run ever wrote such values."""
    count = sum(unnoised_values.told(run) for run in runs)
    if not count:
        return []
    who = "This run" if len(runs) == 1 else f"{count} of {len(runs)} runs"
    return [f"{who} wrote values without noise (simulation_only): no epsilon covers them."]


def _sentences(text: str) -> list[str]:
    """The claim, and the sentence about its tier, as two lines."""
    head, separator, tail = text.partition(". Epsilon is ")
    return [f"{head}.", f"Epsilon is {tail}"] if separator else [text]
