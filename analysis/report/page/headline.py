"""The page's first lines: what a run claims, or what a sweep spent in all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from userdp.sim.run_folder.reader import Run


def of_run(run: Run) -> list[str]:
    """The statement's own words, the claim first; why there is none where there is none."""
    from userdp.server.statement import prose

    if not run.statement:
        spent = "" if run.epsilon is None else f" Epsilon so far: {run.epsilon:.4g}."
        return [f"No claim yet: {run.why}.{spent} userdp run resume=FOLDER goes on with a run."]
    claim, protected = prose.prose(run.statement).split("\n\n")[:2]
    return [*_sentences(claim), protected]


def of_sweep(folder: Path) -> list[str]:
    """What all runs spent together on the same users, composed, and repeat-and-select's figure.

    Where it cannot be told, because a ledger is missing, old or damaged, this is said instead.
    """
    from userdp.sim.run_folder.composed_epsilon import of_sweep as spent

    try:
        return list(spent(folder).sentences)
    except (OSError, ValueError, KeyError, ArithmeticError) as error:
        told = " ".join(str(error).split())
        return [f"What these runs spent together is not known, so nothing is claimed: {told}"]


def first_lines(folder: Path, runs: Sequence[Run]) -> list[str]:
    """Of a run where the folder is one, else of the sweep."""
    alone = len(runs) == 1 and runs[0].folder.samefile(folder)
    return of_run(runs[0]) if alone else of_sweep(folder)


def _sentences(text: str) -> list[str]:
    """The claim, and what the tier says of it."""
    head, dot, tail = text.partition(". Epsilon is ")
    return [f"{head}.", f"Epsilon is {tail}"] if dot else [text]
