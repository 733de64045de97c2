"""Composes the ledgers of a folder: the epsilon of all its runs together.

Every round that a ledger intended counts, whether or not its run ended. To choose among runs is to
see all of them, so their composition is the valid claim; repeat-and-select is cheaper, under
conditions. Only epsilons with the same meaning compose: runs with another unit, adjacency or data
set are composed separately, and then there is no epsilon of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from userdp.server import accounting
from userdp.server.accounting import RoundEvent, hyperparameter_tuning
from userdp.server.ledger.ledger import Account, verify
from userdp.server.statement import prose, statement
from userdp.sim.run_folder import labels, layout

_SHAPE = "geometric"  # distribution of the number of runs under repeat-and-select
_SEVERAL = (
    "Data sets are told apart by their paths; a user who is in several bears the cost of each."
)
# Reasons for an infinite composition.
_FAILING = (
    "the guarantee of a round may fail, with a probability that is set for its own run alone; at "
    "the epsilon of all rounds together these failures, which count e^epsilon times, exceed delta"
)
_OTHER = "they cost more than the accountant can bound at this delta"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Private runs whose epsilons have the same meaning, composed."""

    relation: str  # between neighbouring data sets, in the words of the statement
    data: str  # name of the data set; empty where all runs read one
    runs: int
    rounds: int
    epsilon: accounting.Epsilon
    failing: bool  # whether a round's guarantee may fail by itself
    selected: float | None  # repeat-and-select; None where it has no figure


@dataclass(frozen=True, kw_only=True)
class Spending:
    """The price of a sweep; every epsilon is at ``delta``, and for the neighbours of its part."""

    runs: int  # number of ledgers
    rounds: int  # intended by all ledgers together
    delta: float  # smallest of the private runs; NaN if there is none
    parts: tuple[Part, ...]  # of the private runs, one for each relation and data set
    composed_upper: float  # infinite if a run is not private, or there are several parts or none
    composed_lower: float  # of the private runs; 0 if there are several parts
    selected: float | None  # repeat-and-select; None where it has no figure
    sentences: list[str]  # for the top of a report


def of_sweep(folder: Path) -> Spending:
    """Compose the ledgers in a folder, at any depth; a single run is a sweep of one.

    The accountant is the PLD, with the mixture bound for Group Privacy, also for runs whose own
    claim has another. A library warns of omitted Renyi orders unless
    `userdp.sim.common.third_party.accountants` was called.

    Raises:
        FileNotFoundError: there is no ledger.
        ValueError: a ledger is damaged; names the line.
    """
    # Without a complete first line there is no header, and nothing was spent.
    paths = [path for path in layout.ledgers(folder) if b"\n" in path.read_bytes()]
    accounts = [verify(path) for path in paths]
    if not accounts:
        raise FileNotFoundError(f"{folder} holds no run.")
    private = [
        (account, _data(path.parent))
        for path, account in zip(paths, accounts, strict=True)
        if not statement.not_private_reasons(account.header)
    ]
    delta = min((account.header["delta"] for account, _ in private), default=math.nan)
    parts = _parts(private, delta)
    one = parts[0] if len(parts) == 1 else None
    whole = one if len(private) == len(accounts) else None
    return Spending(
        runs=len(accounts),
        rounds=sum(account.rounds for account in accounts),
        delta=delta,
        parts=parts,
        composed_upper=whole.epsilon.upper if whole else math.inf,
        composed_lower=one.epsilon.lower if one else 0.0,
        selected=whole.selected if whole else None,
        sentences=_sentences(parts, len(accounts), delta),
    )


def events(account: Account) -> list[tuple[RoundEvent, int]]:
    """The events of a private run's ledger, and the number of each.

    Raises:
        ValueError: an earlier version of userdp wrote the ledger.
    """
    if (together := account.header.get("rounds_per_event")) is None:
        raise ValueError("a ledger is of an earlier version, which did not say what a round costs")
    return [
        (RoundEvent.from_dict(event), math.ceil(count / together)) for event, count in account.spent
    ]


def _data(run: Path) -> str:
    """The data set of a run, from its configuration; empty if that is missing."""
    path = layout.RunFolder(run).config
    config = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}
    data = config.get("data") or {}
    return str(data.get("path") or data.get("format") or "")


def _parts(private: Sequence[tuple[Account, str]], delta: float) -> tuple[Part, ...]:
    """One part for each relation and data set, that with most runs first."""
    groups: dict[tuple[str, str], list[Account]] = {}
    for account, data in private:
        groups.setdefault((prose.relation(account.header), data), []).append(account)
    one = len({data for _, data in groups}) == 1
    largest = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        _part(relation, "" if one else labels.short(data), accounts, delta)
        for (relation, data), accounts in largest
    )


def _part(relation: str, data: str, accounts: Sequence[Account], delta: float) -> Part:
    spent = [part for account in accounts for part in events(account)]
    nothing = accounting.Epsilon(lower=0.0, upper=0.0)
    return Part(
        relation=relation,
        data=data,
        runs=len(accounts),
        rounds=sum(account.rounds for account in accounts),
        epsilon=accounting.epsilon(spent, delta) if spent else nothing,
        failing=any(event.failure_probability for event, _ in spent),
        selected=_selected(accounts, delta),
    )


def _selected(private: Sequence[Account], delta: float) -> float | None:
    """Epsilon of repeat-and-select over these runs; None where it is not available.

    The theorem needs one bound for every run. If the events differ in their noise alone, it is the
    least noise for the largest number of events of a run.
    """
    parts = [part for account in private for part in events(account)]
    kinds = {(event.sampling_rate, event.group_size) for event, _ in parts}
    bounds = {account.header["group_bound"] or "mixture" for account in private}
    if len(private) < 2 or len(kinds) != 1 or len(bounds) != 1:
        return None
    if any(hyperparameter_tuning.unavailable(event, *bounds) for event, _ in parts):
        return None
    costliest = min((event for event, _ in parts), key=lambda event: event.noise_multiplier)
    most = max(sum(count for _, count in events(account)) for account in private)
    shape = hyperparameter_tuning.SHAPES[_SHAPE]
    figure = hyperparameter_tuning.repeat_and_select(
        costliest, most, len(private), delta, shape=shape
    )
    return figure if math.isfinite(figure) else None


def _sentences(parts: Sequence[Part], runs: int, delta: float) -> list[str]:
    if not parts:
        return [f"NOT PRIVATE: none of {_runs(runs)} has an epsilon."]
    open_ended = runs - sum(part.runs for part in parts)
    why = (
        f"NOT PRIVATE together: {_runs(open_ended)} of {runs} {_are(open_ended)} not private, so "
        "no epsilon covers the whole"
    )
    if len(parts) > 1:
        mixed = f"No one epsilon covers these {runs} runs: they do not protect the same."
        alone = [_cost(f"looking at {_named(part)} alone", part, delta) for part in parts]
        several = [_SEVERAL] if len({part.data for part in parts}) > 1 else []
        return [f"{why}." if open_ended else mixed, *map(_capital, alone), *several]
    if open_ended:
        return [f"{why}; {_cost(f'looking at the other {_runs(parts[0].runs)}', parts[0], delta)}"]
    whole = _capital(_cost(f"looking at {_runs(runs)} on the same users", parts[0], delta))
    return [whole, *_repeated(parts[0])]


def _cost(looking: str, part: Part, delta: float) -> str:
    over = (
        f"at delta = {_up(delta)}, composed over all {part.rounds:,} rounds that their ledgers "
        f"intended, at {part.relation}"
    )
    if not math.isfinite(part.epsilon.upper):
        because = _FAILING if part.failing else _OTHER
        return f"no finite epsilon is certified for {looking} {over}: {because}."
    upper, lower = _up(part.epsilon.upper), _down(part.epsilon.lower)
    return f"{looking} costs epsilon <= {upper} (at least {lower}) {over}."


def _repeated(part: Part) -> list[str]:
    if part.selected is None:
        return []
    return [
        f"Had their number been drawn at random first ({_SHAPE}, mean {part.runs}) and the best "
        f"alone been looked at, it would be epsilon <= {_up(part.selected)} (repeat-and-select, "
        "arXiv 2110.03620)."
    ]


def _named(part: Part) -> str:
    return _runs(part.runs) + (f" on the users of {part.data}" if part.data else "")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _up(value: float) -> str:
    return f"{prose.round_up(value, 4):.4g}"


def _down(value: float) -> str:
    return f"{prose.round_down(value, 4):.4g}"
