"""The figures of one attacked run: over all users, and by thirds of their number of texts.

Users with many records are easier to tell (arXiv 2310.09266, abstract). A rate over all users is
therefore shown beside rates within thirds of equal users of both sides: by the number of texts that
the attacker could have of a user, which is counted in the same way on both.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from userdp.analysis.user_inference import rates
from userdp.analysis.user_inference.attack import Attacked
from userdp.analysis.user_inference.options import Options
from userdp.analysis.user_inference.rates import Estimate
from userdp.sim.common import rng
from userdp.sim.run.simulation_only import user_groups

FPRS: Mapping[str, float] = {"1": 0.01, "10": 0.1}  # name in percent -> rate
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a run's statement claims; epsilon is None where it claims nothing."""

    epsilon: float | None
    delta: float | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The rates of one group of users."""

    group: str  # "all", or the name of a third
    members: int
    others: int
    available: tuple[int, int]  # fewest and most texts that a user has
    auc: Estimate
    tpr: Mapping[str, Estimate]  # by name of the FPR
    bounds: Mapping[str, float] = field(default_factory=dict)  # of the TPR, where one is claimed
    exceeds: bool | None = None  # a TPR beyond its bound by more than sampling error

    def row(self) -> dict[str, Any]:
        """The finding as one row of a table, by column."""
        return {
            "group": self.group,
            "members": self.members,
            "others": self.others,
            **dict(zip(("texts_least", "texts_most"), self.available, strict=True)),
            **_columns("auc", self.auc),
            **{
                key: value
                for name, estimate in self.tpr.items()
                for key, value in {
                    **_columns(f"tpr_at_{name}", estimate),
                    f"bound_at_{name}": self.bounds.get(name),
                }.items()
            },
            "exceeds": self.exceeds,
        }


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def findings(attacked: Attacked, claim: Claim, options: Options) -> list[Finding]:
    """The rates over all users, then within each third that has users of both sides."""
    found = [_finding(ALL, attacked, claim, options)]
    counts = np.concatenate([attacked.member_texts, attacked.other_texts])
    third = user_groups.thirds(counts)
    inside = third[: len(attacked.members)], third[len(attacked.members) :]
    for number, name in enumerate(user_groups.GROUPS["records"]):
        chosen = [side == number for side in inside]
        if all(mask.any() for mask in chosen) and not all(mask.all() for mask in chosen):
            found.append(_finding(name, _only(attacked, *chosen), claim, options))
    return found


def _only(attacked: Attacked, members: np.ndarray, others: np.ndarray) -> Attacked:
    """The users of these masks, (participants,) and (other users,) bool."""
    return Attacked(
        kind=attacked.kind,
        members=attacked.members[members],
        others=attacked.others[others],
        member_texts=attacked.member_texts[members],
        other_texts=attacked.other_texts[others],
    )


def _finding(group: str, attacked: Attacked, claim: Claim, options: Options) -> Finding:
    members, others = attacked.members, attacked.others
    counts = np.concatenate([attacked.member_texts, attacked.other_texts])

    def estimate(name: str, measure: rates.Measure) -> Estimate:
        source = rng.generator(options.seed, "attack bootstrap", group, name)
        return rates.bootstrapped(measure, members, others, source, options.resamples)

    return Finding(
        group=group,
        members=len(members),
        others=len(others),
        available=(int(counts.min()), int(counts.max())),
        auc=estimate("auc", rates.auc),
        tpr={
            name: estimate(name, functools.partial(rates.tpr, fpr=fpr))
            for name, fpr in FPRS.items()
        },
        **_held_to(claim, members, others),
    )


def _held_to(claim: Claim, members: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """The bounds of the claim, and whether a rate exceeds one; nothing without a claim."""
    if claim.epsilon is None or claim.delta is None:
        return {}
    guarantee = {"epsilon": claim.epsilon, "delta": claim.delta}
    return {
        "bounds": {name: rates.bound(fpr, **guarantee) for name, fpr in FPRS.items()},
        "exceeds": any(
            rates.exceeds(members, others, fpr=fpr, **guarantee) for fpr in FPRS.values()
        ),
    }


def rows(found: Sequence[Finding], *, texts: str) -> list[dict[str, Any]]:
    """The rows of a run's table; ``texts`` is the kind of its known texts."""
    return [{**finding.row(), "texts": texts} for finding in found]
