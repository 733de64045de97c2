"""The table of accountants: which rounds each analyses, and how it prices them.

A new accountant is one module with an ``ACCOUNTANT`` object and one line in :data:`ACCOUNTANTS`.
From outside userdp no line is needed: the dotted name of such an object, for example
``package.module.ACCOUNTANT``, is accepted wherever a name is.

>>> from userdp.server.accounting import accountants
>>> list(accountants.ACCOUNTANTS), accountants.find("edgeworth").certified
(['pld', 'prv', 'rdp', 'edgeworth'], False)
>>> accountants.claim_library("pld", capped=True)
'dp-accounting'
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

from userdp.server.accounting.events import Composition, RoundEvent
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.table import Table

GROUP_BOUNDS = ("mixture", "lemma")
DEFAULT = "pld"

EpsilonCurve: TypeAlias = Callable[[float], float]  # delta -> epsilon


class EstimateFunction(Protocol):
    """Estimated epsilon of a composition at ``delta``."""

    def __call__(self, composition: Composition, delta: float, *, order: int) -> float: ...


class NoiseFunction(Protocol):
    """Noise multiplier at which the estimate of ``rounds`` events is at most ``epsilon``."""

    def __call__(
        self, event: RoundEvent, rounds: int, epsilon: float, delta: float, *, order: int
    ) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Accountant:
    """Common description of an accountant; an entry of the table is one of the two subclasses.

    Args:
        library: distribution whose version a claim names.
        capped_library: the same for capped cohorts, if it is another one.
        analyses_mixtures: whether it takes events with several slots a user. If not, their epsilon
            comes from that of one slot, by the group privacy lemma.
        analyses_capped_cohorts: whether it takes events with a ``cohort_cap``.
        refuses: from an event to why it cannot be analysed for any other reason, for example
            "analyses no sampled cohort", or None if it can. Under the group privacy lemma the
            events are single slots.
    """

    certified: ClassVar[bool]

    library: str
    capped_library: str | None = None
    analyses_mixtures: bool = False
    analyses_capped_cohorts: bool = False
    refuses: Callable[[RoundEvent], str | None] | None = None


@dataclass(frozen=True, kw_only=True)
class CertifiedAccountant(Accountant):
    """An accountant whose figures are upper bounds of the true epsilon, on which claims rest.

    Args:
        curve: from distinct events with positive counts to their upper epsilon as a function of
            delta, under add-or-remove-one-user adjacency (zero-out where cohorts are capped). The
            events are those it analyses, without failure probabilities: `certify` accounts for
            these.
        slow: whether a value of the curve takes seconds. The group privacy lemma then searches
            along the PLD's curve, and takes only a few values of this one.
        is_bracket: whether its figure is the upper end of the PLD bracket that `certify` computes
            for every claim. The curve then serves the group privacy lemma only.
    """

    certified: ClassVar[bool] = True

    curve: Callable[[Composition], EpsilonCurve]
    slow: bool = False
    is_bracket: bool = False


@dataclass(frozen=True, kw_only=True)
class EstimatingAccountant(Accountant):
    """An accountant whose figures may lie below the true epsilon: no claim rests on them.

    Args:
        estimate: epsilon of a composition.
        calibrate: noise multiplier for a target epsilon.
    """

    certified: ClassVar[bool] = False

    estimate: EstimateFunction
    calibrate: NoiseFunction


ACCOUNTANTS: Table[Accountant] = Table(
    "privacy.accountant",
    {
        "pld": "userdp.server.accounting.pld_accountant.ACCOUNTANT",
        "prv": "userdp.server.accounting.prv.ACCOUNTANT",
        "rdp": "userdp.server.accounting.rdp.ACCOUNTANT",
        "edgeworth": "userdp.server.accounting.edgeworth_accountant.ACCOUNTANT",
    },
    kinds=[Accountant],
)


def find(name: str) -> Accountant:
    """The accountant of this name: an entry of the table, or an object's dotted name.

    Raises:
        ConfigurationError: the name is unknown, or names something that is no accountant.
    """
    return ACCOUNTANTS.find(name)


def certified_names() -> tuple[str, ...]:
    """Names in the table on whose figures a claim may rest."""
    return tuple(name for name in ACCOUNTANTS if find(name).certified)


def claim_library(accountant: str, *, capped: bool) -> str:
    """Distribution whose version a claim by this accountant names.

    Args:
        accountant: its name.
        capped: whether the composition holds capped cohorts.

    Raises:
        ConfigurationError: there is no such accountant.
    """
    entry = find(accountant)
    return entry.capped_library if capped and entry.capped_library else entry.library


def claim_version(accountant: str, *, capped: bool) -> str:
    """The version of the library that a claim by this accountant names.

    Args:
        accountant: its name.
        capped: whether the composition holds capped cohorts.

    Raises:
        ConfigurationError: there is no such accountant, or its library is not installed.
    """
    library = claim_library(accountant, capped=capped)
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigurationError(
            f"{ACCOUNTANTS.setting}={accountant}: its library {library} is not installed."
        ) from None


def refusal(accountant: str, group_bound: str, event: RoundEvent) -> str | None:
    """Why this accountant, certified or not, cannot analyse the event; None if it can.

    Raises:
        ConfigurationError: there is no such accountant.
    """
    entry = find(accountant)
    if group_bound not in GROUP_BOUNDS:
        return f"Expected group_bound in {GROUP_BOUNDS}, got {group_bound!r}."
    if event.cohort_cap is not None and not entry.analyses_capped_cohorts:
        return (
            f"accountant={accountant!r} analyses no capped cohort (cohort_cap={event.cohort_cap}); "
            f"take accountant={DEFAULT!r}, or no cap."
        )
    if group_bound == "mixture" and event.group_size > 1 and not entry.analyses_mixtures:
        return (
            f"accountant={accountant!r} analyses no mixture of Gaussians "
            f"(group_size={event.group_size}); take accountant={DEFAULT!r} or group_bound='lemma'."
        )
    if group_bound == "lemma" and not entry.certified:
        return (
            f"accountant={accountant!r} estimates no epsilon by the group privacy lemma; "
            "take group_bound='mixture'."
        )
    analysed = event.single_slot() if group_bound == "lemma" else event
    reason = entry.refuses(analysed) if entry.refuses else None
    return f"accountant={accountant!r} {reason}." if reason else None
