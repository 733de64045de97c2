"""From settings and a public number of users to a mechanism and its certified price; touches no data."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.utils import get_class

from server import accounting
from server.mechanism import Mechanism
from sim.errors import ConfigurationError
from sim.settings import Settings, Strategy

ACCOUNTANTS = ("pld", "prv", "rdp")
_calibrate = functools.lru_cache(maxsize=256)(accounting.calibrate)  # a sweep checks, then runs
_LOG = logging.getLogger("userdp")
_DIGITS = 6  # of a calibrated noise multiplier, rounded up: what is printed is what is used


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A mechanism, how often it runs and what that costs at ``delta``."""

    mechanism: Mechanism
    rounds: int
    delta: float
    accountant: str
    group_bound: str
    epsilon: accounting.Epsilon  # of all the rounds; infinite where nothing is noised
    target: float | None  # the epsilon that was asked for, if one was

    @property
    def options(self) -> dict[str, str]:
        """How the claim is computed, as `server.accounting` takes it."""
        return {"accountant": self.accountant, "group_bound": self.group_bound}


def make(settings: Settings, users: int) -> Plan:
    """The mechanism that meets the settings, calibrated if they name a target epsilon.

    Raises:
        ConfigurationError: the settings contradict each other or no noise meets the target.
    """
    return _made(settings, users, _delta(settings, users))


def _made(settings: Settings, users: int, delta: float) -> Plan:
    privacy = settings.privacy
    build = _builder(settings, users)
    options = {"accountant": privacy.accountant, "group_bound": privacy.group_bound}
    z = privacy.noise_multiplier
    if build(1.0).private:
        z = z or _calibrated(build(1.0).event(), settings, delta, options)
        mechanism = build(z)
        spent = _accounted(mechanism.event(), settings, delta, options)
    else:
        mechanism = build(0.0)
        spent = accounting.Epsilon(lower=math.inf, upper=math.inf)
    return Plan(
        mechanism=mechanism,
        rounds=settings.rounds,
        delta=delta,
        epsilon=spent,
        target=privacy.epsilon,
        **options,
    )


def bare(settings: Settings) -> Plan:
    """A plan for ``plan.sampling_rate`` in the place of declared users.

    Raises:
        ConfigurationError: neither the rate (with delta) nor ``privacy.users`` is given.
    """
    rate, users = settings.plan.sampling_rate, settings.privacy.users
    if rate is None:
        if users is None:
            raise ConfigurationError(
                "privacy.users=None: declare the number of users, or give plan.sampling_rate and "
                "privacy.delta; a plan reads no data."
            )
        return make(settings, users)
    if settings.privacy.delta is None:
        raise ConfigurationError("privacy.delta=None: plan.sampling_rate needs a delta beside it.")
    if users is not None:
        raise ConfigurationError(
            f"privacy.users={users}: plan.sampling_rate={rate} takes its place; give one of the two."
        )
    users = 2**20  # any power of two: cohort / users is then the rate to the last bit
    return _made(replace(settings, cohort=rate * users), users, settings.privacy.delta)


def described(
    plan: Plan, settings: Settings, accountants: Sequence[str] = ACCOUNTANTS
) -> dict[str, Any]:
    """The plan as ``userdp plan --json`` prints it; infinite is None."""
    mechanism = plan.mechanism
    # Under plan.sampling_rate the cohort of the plan stands for the rate only.
    expected = settings.cohort * mechanism.group_size
    return {
        "strategy": settings.strategy.name,
        "records_per_user": settings.strategy.records_per_user,
        "rounds": plan.rounds,
        "sampling_rate": mechanism.sampling_rate,
        "expected_cohort": expected,
        "delta": plan.delta,
        "noise_multiplier": mechanism.noise_multiplier,
        "epsilon": {"lower": finite(plan.epsilon.lower), "upper": finite(plan.epsilon.upper)},
        "accountants": _by_accountant(plan, accountants) if mechanism.private else {},
        "noise_std_on_mean": mechanism.noise_std / expected,
    }


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def bound_of(accountant: str, plan: Plan) -> str:
    """How this accountant joins a user's slots: those that analyse no mixture take the lemma."""
    return plan.group_bound if accountant == "pld" else "lemma"


def _by_accountant(plan: Plan, accountants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each accountant says of this noise, and the noise it would ask for the target."""
    event = plan.mechanism.event()
    figures = {}
    for name in accountants:
        options = {"accountant": name, "group_bound": bound_of(name, plan)}
        own = plan.options == options
        spent = plan.epsilon if own else _epsilon(event, plan.rounds, plan.delta, options)
        figures[name] = {
            "epsilon": finite(spent.upper),
            "noise_multiplier": _own_noise(plan, options, own),
            "certified": True,
        }
    return figures


def _own_noise(plan: Plan, options: dict[str, str], own: bool) -> float | None:
    if plan.target is None:
        return None
    if own:
        return plan.mechanism.noise_multiplier
    event = plan.mechanism.event()
    return accounting.calibrate(event, plan.rounds, plan.target, plan.delta, **options)


def _builder(settings: Settings, users: int) -> Callable[[float], Mechanism]:
    strategy = settings.strategy
    cls = _mechanism_class(strategy)
    if strategy.clip_norm is None and cls.private:
        raise ConfigurationError("strategy.clip_norm=None: a private strategy needs a clip norm.")
    clip = {} if strategy.clip_norm is None else {"clip_norm": strategy.clip_norm}

    def build(noise_multiplier: float) -> Mechanism:
        return cls(
            users=users,
            cohort=settings.cohort,
            records_per_user=strategy.k,
            noise_multiplier=noise_multiplier if cls.private else 0.0,
            **clip,
        )

    return build


def _mechanism_class(strategy: Strategy) -> type[Mechanism]:
    try:
        cls = get_class(strategy.mechanism)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"strategy.mechanism={strategy.mechanism}: {error}") from None
    if not issubclass(cls, Mechanism) or cls.private == (strategy.name == "non_private"):
        raise ConfigurationError(
            f"strategy.mechanism={strategy.mechanism}: not a mechanism of strategy={strategy.name}."
        )
    return cls


def _delta(settings: Settings, users: int) -> float:
    delta = settings.privacy.delta
    if delta is None:
        return 1 / (10 * users)
    if delta >= 1 / users:
        raise ConfigurationError(
            f"privacy.delta={delta:g}: must be below 1/{users}, one over the declared users; "
            f"leave it out for 1/(10 N) = {1 / (10 * users):.3g}."
        )
    if delta > 1 / (10 * users):
        _LOG.warning(
            "privacy.delta=%g is above the default 1/(10 N) = %.3g.", delta, 1 / (10 * users)
        )
    return delta


def _calibrated(
    event: accounting.RoundEvent, settings: Settings, delta: float, options: dict[str, str]
) -> float:
    target = settings.privacy.epsilon
    if target is None:  # Settings allows neither only for strategy=non_private
        raise ConfigurationError("privacy.epsilon=None: give a target or a noise multiplier.")
    try:
        z = _calibrate(event, settings.rounds, target, delta, **options)
    except ValueError as error:
        raise ConfigurationError(f"privacy.epsilon={target:g}: {error}") from None
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(z)))
    return math.ceil(z * scale) / scale


def _accounted(
    event: accounting.RoundEvent, settings: Settings, delta: float, options: dict[str, str]
) -> accounting.Epsilon:
    try:
        return _epsilon(event, settings.rounds, delta, options)
    except ValueError as error:
        raise ConfigurationError(f"privacy.accountant={options['accountant']}: {error}") from None


def _epsilon(
    event: accounting.RoundEvent, rounds: int, delta: float, options: dict[str, str]
) -> accounting.Epsilon:
    return accounting.epsilon([(event, rounds)], delta, **options)
