"""Compares strategies and k at one privacy budget, and prices hyperparameter tuning.

Both use public numbers alone. Every strategy and k draws the same expected number G of record
gradients a round, so its sampling rate is q = G / (N k). How much clipping shrinks the mean, the
signal, cannot be known without data: the ranking is by noise alone.
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
    """One strategy and k at G gradients a round, with its plan or why there is none."""

    strategy: str
    records_per_user: int
    cohort: float  # G / k
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
    """What ``userdp plan`` adds to a plan, as plain values.

    Args:
        alternatives: whether to compare strategies (``--all``).

    Returns:
        ``alternatives`` if asked for, and ``tuning`` if ``plan.tuning_runs`` is given.

    Raises:
        ConfigurationError: the settings do not determine what to compare.
    """
    answers: dict[str, Any] = {}
    if alternatives:
        quantiles = settings.plan.records_per_user
        rows = ranked(settings, plan.delta)
        answers["alternatives"] = [described(row, quantiles) for row in rows]
    if settings.plan.tuning_runs is not None:
        answers["tuning"] = tuned(plan, settings.plan.tuning_runs)
    return answers


def ranked(settings: Settings, delta: float) -> list[Alternative]:
    """Every compared strategy at every k of ``plan.ks``, least noise first; impossible ones last.

    Args:
        delta: of every claim.

    Raises:
        ConfigurationError: the settings lack a budget, the users or the gradients to compare at.
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
            in between. A single one holds for every user.
        k: cap on the records of a user.

    >>> mean_of_capped([0, 10], 5)  # uniform between 0 and 10
    3.75
    """
    if len(quantiles) == 1:
        return float(min(quantiles[0], k))
    parts = [_segment_mean(low, high, k) for low, high in itertools.pairwise(quantiles)]
    return sum(parts) / len(parts)


def tuned(plan: Plan, runs: int) -> dict[str, Any]:
    """The price of choosing the best of ``runs`` runs of a plan, as plain values.

    Raises:
        ConfigurationError: the plan is not private, or the accountant refuses so many rounds.
    """
    if not plan.mechanism.private:
        raise ConfigurationError(
            f"plan.tuning_runs={runs}: a strategy that is not private has no epsilon to compose."
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

    ``real_gradients`` are those of records, expected in a round. Where users have record slots, it
    is the number with resampling; without it, slots beyond a user's records are empty.

    Args:
        quantiles: records per user, as `mean_of_capped` takes them; None: unknown.
    """
    facts: dict[str, Any] = {
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
        facts |= {
            "sampling_rate": row.plan.mechanism.sampling_rate,
            "noise_multiplier": row.plan.mechanism.noise_multiplier,
            "epsilon": {
                "lower": planner.finite(row.plan.epsilon.lower),
                "upper": planner.finite(row.plan.epsilon.upper),
            },
        }
    return facts


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
            f"certain; choose {accountants.DEFAULT}."
        )
    return users


def _gradients(settings: Settings) -> float:
    """G: ``plan.gradients``, else the expected number of the configured strategy."""
    gradients, k = settings.plan.gradients, settings.strategy.k
    if gradients is None and k == 0:
        raise ConfigurationError(
            "strategy.records_per_user=all: the gradients of a round are not known; give "
            "plan.gradients."
        )
    gradients = settings.cohort * k if gradients is None else gradients
    if gradients == 0:
        raise ConfigurationError(f"plan.gradients={gradients:g}: must be above 0.")
    return gradients


def _row(
    settings: Settings, name: str, k: int, *, users: int, delta: float, gradients: float
) -> Alternative:
    allowed = registry.find(name).options()
    strategy = replace(
        settings.strategy,
        name=name,
        records_per_user=k,
        options={key: v for key, v in settings.strategy.options.items() if key in allowed},
    )
    cohort = gradients / k
    plan, reason = None, None
    try:
        plan = planner.make_at(replace(settings, strategy=strategy, cohort=cohort), users, delta)
    except ConfigurationError as error:
        reason = str(error)
    return Alternative(strategy=name, records_per_user=k, cohort=cohort, plan=plan, reason=reason)


def _has_slots(row: Alternative) -> bool:
    """Whether the clipped unit is a record slot, which resampling fills."""
    return registry.find(row.strategy).unit == RECORD_SLOT


def _real_gradients(
    row: Alternative, quantiles: Sequence[float] | None, *, resample: bool
) -> float | None:
    """Expected gradients of records; resampling fills all slots of a user with a record."""
    if quantiles is None or row.plan is None:
        return None
    k = row.records_per_user
    mean = k * mean_of_capped(quantiles, 1) if resample else mean_of_capped(quantiles, k)
    return row.cohort * mean


def _segment_mean(low: float, high: float, k: int) -> float:
    """Mean of min(x, k) for x uniform between ``low`` and ``high``."""
    if high <= k:
        return (low + high) / 2
    if low >= k:
        return float(k)
    below = (k - low) / (high - low)
    return below * (low + k) / 2 + (1 - below) * k
