"""What the runs of a folder spent on the private data together, from their ledgers alone.

Every round that any ledger intended counts, whatever became of its run. Choosing among runs looks
at all of them, so their composition is what holds; repeat-and-select is cheaper, under conditions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server import accounting, statement, wording
from server.accounting import RoundEvent, tuning
from server.ledger import Account, verify

_SHAPE = "geometric"  # of the number of runs that repeat-and-select would draw
# Why a composition is infinite.
_FAILING = (
    "the guarantee of a concentrated round fails with a probability that is set for its own run "
    "alone; at what all rounds cost together, these failures, which count e^epsilon times, exceed "
    "delta"
)
_OTHER = "they cost more than the accountant can bound at this delta"


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What a sweep cost; every epsilon is at ``delta`` and of adding or removing one user."""

    runs: int  # ledgers
    rounds: int  # that any of them intended
    delta: float  # the least of the runs'; nan where there is no private run
    composed_upper: float  # infinite where a run is not private, or no epsilon is certified
    composed_lower: float  # of the private runs
    selected: float | None  # repeat-and-select; None where it has no figure
    sentences: list[str]  # for the top of a report


def of_sweep(folder: Path) -> Spending:
    """Compose the ledgers in a folder, at any depth; a single run is a sweep of one.

    By the PLD accountant, and the mixture bound for Group Privacy, whatever the runs claim by. A
    library may warn of Renyi orders it leaves out; `sim.quiet.accountants` asks it not to.

    Raises:
        FileNotFoundError: there is no ledger.
        ValueError: a ledger is damaged; names the line.
    """
    paths = sorted(folder.rglob("ledger.jsonl"))
    accounts = [verify(path) for path in paths if b"\n" in path.read_bytes()]  # has its header
    if not accounts:
        raise FileNotFoundError(f"{folder} holds no run.")
    private = [one for one in accounts if not statement.not_private_reasons(one.header)]
    delta = min((account.header["delta"] for account in private), default=math.nan)
    own, selected = _composed(private, delta), _selected(private, delta)
    open_ended = len(private) < len(accounts)
    return Spending(
        runs=len(accounts),
        rounds=sum(account.rounds for account in accounts),
        delta=delta,
        composed_upper=math.inf if open_ended else own.upper,
        composed_lower=own.lower,
        selected=None if open_ended else selected,
        sentences=_sentences(accounts, private, own, delta, None if open_ended else selected),
    )


def events(account: Account) -> list[tuple[RoundEvent, int]]:
    """What a private run's ledger spent: its events, and how often each happened."""
    together = account.header["rounds_per_event"]
    return [
        (RoundEvent.from_dict(event), math.ceil(count / together)) for event, count in account.spent
    ]


def _composed(private: Sequence[Account], delta: float) -> accounting.Epsilon:
    parts = [part for account in private for part in events(account)]
    return accounting.epsilon(parts, delta) if parts else accounting.Epsilon(lower=0.0, upper=0.0)


def _selected(private: Sequence[Account], delta: float) -> float | None:
    """Repeat-and-select over these runs, each taken for the costliest of them; None: no figure.

    One bound for all runs is needed. Events that differ in noise alone have one: the least noise,
    as often as any run has rounds.
    """
    parts = [part for account in private for part in events(account)]
    kinds = {(event.sampling_rate, event.group_size) for event, _ in parts}
    bounds = {account.header["group_bound"] or "mixture" for account in private}
    if len(private) < 2 or len(kinds) != 1 or len(bounds) != 1:
        return None
    if any(tuning.unavailable(event, *bounds) for event, _ in parts):
        return None
    costliest = min((event for event, _ in parts), key=lambda event: event.noise_multiplier)
    most = max(sum(count for _, count in events(account)) for account in private)
    shape = tuning.SHAPES[_SHAPE]
    figure = tuning.repeat_and_select(costliest, most, len(private), delta, shape=shape)
    return figure if math.isfinite(figure) else None


def _sentences(
    accounts: Sequence[Account],
    private: Sequence[Account],
    own: accounting.Epsilon,
    delta: float,
    selected: float | None,
) -> list[str]:
    if not private:
        return [f"NOT PRIVATE: none of {_runs(len(accounts))} here has an epsilon."]
    open_ended = len(accounts) - len(private)
    if open_ended:
        told = (
            f"NOT PRIVATE together: {_runs(open_ended)} of {len(accounts)} {_are(open_ended)} not "
            "private, so no epsilon covers the whole; "
            + _cost(f"the other {_runs(len(private))}", "cost", private, own, delta)
        )
    else:
        told = _cost(
            f"looking at {_runs(len(private))} on the same users", "costs", private, own, delta
        )
        told = told[0].upper() + told[1:]
    if selected is None:
        return [told]
    return [
        told,
        f"Had their number been drawn at random first ({_SHAPE}, mean {len(private)}) and the best "
        f"alone been looked at, it would be epsilon <= {_up(selected)} (repeat-and-select, arXiv "
        "2110.03620).",
    ]


def _cost(
    who: str, verb: str, private: Sequence[Account], own: accounting.Epsilon, delta: float
) -> str:
    rounds = sum(account.rounds for account in private)
    over = (
        f"at delta = {_up(delta)}, composed over all {rounds:,} rounds that their ledgers intended"
    )
    if math.isfinite(own.upper):
        return f"{who} {verb} epsilon <= {_up(own.upper)} (at least {_down(own.lower)}) {over}."
    failing = any(event.failure_probability for one in private for event, _ in events(one))
    return f"no finite epsilon is certified for {who} {over}: {_FAILING if failing else _OTHER}."


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _up(value: float) -> str:
    return f"{wording.round_up(value, 4):.4g}"


def _down(value: float) -> str:
    return f"{wording.round_down(value, 4):.4g}"
