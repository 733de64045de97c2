"""Alternatives to a plan at one budget, and what tuning costs: from public numbers alone.

Every strategy and k draws the same expected number G of record gradients a round, hence the same
sampling rate q = G / (N k). What cannot be known without data is the signal: how much clipping
shrinks a mean. The ranking is by noise alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from userdp.server.accounting import accountants, hyperparameter_tuning
from userdp.server.mechanisms import registry
from userdp.server.mechanisms.base import RECORD_SLOT
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings
from userdp.sim.planning import planner
from userdp.sim.planning.planner import Plan


def compared() -> list[str]:
    """Names of the strategies that are compared."""
    return [name for name in registry.MECHANISMS if registry.find(name).compared]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One strategy and k at G gradients a round, or why it is not possible."""

    strategy: str
    records_per_user: int
    cohort: float  # expected users' worth of gradients a round, G / k
    plan: Plan | None
    reason: str | None  # exactly one of plan and reason

    @property
    def noise(self) -> float:
        """Noise std on the mean per unit of the clip norm; infinite where there is no plan."""
        if self.plan is None:
            return float("inf")
        mechanism = self.plan.mechanism
        return mechanism.noise_std / mechanism.clip_norm / mechanism.expected_units


def advice(plan: Plan, settings: Settings, *, alternatives: bool) -> dict[str, Any]:
    """What ``userdp plan`` adds to a plan: under --all, and where ``plan.tuning_runs`` is given.

    Raises:
        ConfigurationError: the settings do not say what to compare.
    """
    told: dict[str, Any] = {}
    if alternatives:
        quantiles = settings.plan.records_per_user
        told["alternatives"] = [described(row, quantiles) for row in ranked(settings, plan.delta)]
    if settings.plan.tuning_runs is not None:
        told["tuning"] = tuned(plan, settings.plan.tuning_runs)
    return told


def ranked(settings: Settings, delta: float) -> list[Alternative]:
    """Both strategies at every k of ``plan.ks``, least noise first; impossible ones last.

    Raises:
        ConfigurationError: no budget, no number of users or no number of gradients to compare at.
    """
    users, gradients = _users(settings), _gradients(settings)
    ks = sorted(set(settings.plan.ks))
    rows = [
        _row(settings, name, k, users=users, delta=delta, gradients=gradients)
        for k in ks
        for name in compared()
    ]
    return sorted(rows, key=lambda row: row.noise)


def mean_of_capped(quantiles: Sequence[float], k: int) -> float:
    """Mean over users of min(records, k).

    Args:
        quantiles: records per user at equally spaced probabilities from 0 to 1, ascending; linear
            in between. A single one is everybody's.
    """
    if len(quantiles) == 1:
        return float(min(quantiles[0], k))
    parts = [_segment_mean(low, high, k) for low, high in itertools.pairwise(quantiles)]
    return sum(parts) / len(parts)


def tuned(plan: Plan, runs: int) -> dict[str, Any]:
    """What choosing the best of ``runs`` runs of a plan costs, for ``userdp plan --json``."""
    if not plan.mechanism.private:
        raise ConfigurationError(
            f"plan.tuning_runs={runs}: a strategy that is not private has no epsilon to add up."
        )
    event = plan.mechanism.event()
    try:
        spent = hyperparameter_tuning.composed(event, plan.events, runs, plan.delta, **plan.options)
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"plan.tuning_runs={runs}: {error}") from None
    reason = hyperparameter_tuning.unavailable(event, plan.group_bound)
    return {
        "runs": runs,
        "composed": {
            "lower": planner.finite(spent.lower),
            "upper": planner.finite(spent.upper),
        },
        "repeat_and_select": None
        if reason
        else {
            name: planner.finite(
                hyperparameter_tuning.repeat_and_select(
                    event, plan.events, runs, plan.delta, shape=shape
                )
            )
            for name, shape in hyperparameter_tuning.SHAPES.items()
        },
        "reason": reason,
    }


def described(row: Alternative, quantiles: Sequence[float] | None) -> dict[str, Any]:
    """One alternative as plain values; what is unknown or infinite is None.

    ``real_gradients`` are expected ones a round; for Group Privacy ``strategy.resample`` decides
    whether a user's missing records are drawn again or leave their slots empty.
    """
    told: dict[str, Any] = {
        "strategy": row.strategy,
        "records_per_user": row.records_per_user,
        "cohort": row.cohort,
        "sampling_rate": None,
        "noise_multiplier": None,
        "epsilon": None,
        "noise_std_on_mean_per_clip_norm": planner.finite(row.noise),
        "real_gradients": _real_gradients(row, quantiles, resample=_has_slots(row)),
        "real_gradients_without_resampling": _real_gradients(row, quantiles, resample=False),
        "reason": row.reason,
        "clipped_unit": registry.find(row.strategy).unit,
    }
    if row.plan is not None:
        told |= {
            "sampling_rate": row.plan.mechanism.sampling_rate,
            "noise_multiplier": row.plan.mechanism.noise_multiplier,
            "epsilon": {
                "lower": planner.finite(row.plan.epsilon.lower),
                "upper": planner.finite(row.plan.epsilon.upper),
            },
        }
    return told


def _users(settings: Settings) -> int:
    users, privacy = settings.privacy.users, settings.privacy
    if users is None:
        raise ConfigurationError(
            "privacy.users=None: --all compares at a declared number of users; give one."
        )
    if privacy.epsilon is None:
        raise ConfigurationError(
            f"privacy.noise_multiplier={privacy.noise_multiplier}: --all compares at one budget; "
            "give privacy.epsilon instead, and a private strategy."
        )
    if not accountants.find(privacy.accountant).certified:
        raise ConfigurationError(
            f"privacy.accountant={privacy.accountant}: --all compares at a budget that is met for "
            f"certain; take {accountants.DEFAULT}."
        )
    return users


def _gradients(settings: Settings) -> float:
    """G: as asked for, else what the configured strategy expects."""
    asked, k = settings.plan.gradients, settings.strategy.k
    if asked is None and k == 0:
        raise ConfigurationError(
            "strategy.records_per_user=all: the gradients of a round are open; give plan.gradients."
        )
    gradients = settings.cohort * k if asked is None else asked
    if gradients == 0:
        raise ConfigurationError(f"plan.gradients={gradients:g}: must be above 0.")
    return gradients


def _row(
    settings: Settings, name: str, k: int, *, users: int, delta: float, gradients: float
) -> Alternative:
    known = registry.find(name).options()
    strategy = replace(
        settings.strategy,
        name=name,
        records_per_user=k,
        options={key: v for key, v in settings.strategy.options.items() if key in known},
    )
    cohort = gradients / k
    plan, reason = None, None
    try:
        plan = planner.made(replace(settings, strategy=strategy, cohort=cohort), users, delta)
    except ConfigurationError as error:
        reason = str(error)
    return Alternative(strategy=name, records_per_user=k, cohort=cohort, plan=plan, reason=reason)


def _has_slots(row: Alternative) -> bool:
    """Whether users own record slots, which resampling fills."""
    return registry.find(row.strategy).unit == RECORD_SLOT


def _real_gradients(
    row: Alternative, quantiles: Sequence[float] | None, *, resample: bool
) -> float | None:
    """Expected gradients of records, not of empty slots; resampling fills whoever has a record."""
    if quantiles is None or row.plan is None:
        return None
    k = row.records_per_user
    mean = k * mean_of_capped(quantiles, 1) if resample else mean_of_capped(quantiles, k)
    return row.cohort * mean


def _segment_mean(low: float, high: float, k: int) -> float:
    """Mean of min(x, k) for x uniform between low and high."""
    if high <= k:
        return (low + high) / 2
    if low >= k:
        return float(k)
    below = (k - low) / (high - low)
    return below * (low + k) / 2 + (1 - below) * k
