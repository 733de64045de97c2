"""Plans a run: its mechanism, calibrated to a target epsilon, and what the rounds cost.

A plan needs the settings and the public number of users; it reads no data.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from userdp.server import accounting
from userdp.server.accounting import accountants
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings
from userdp.sim.planning import mechanism_builder, noise_estimate, time_limit
from userdp.sim.planning.noise_estimate import NoiseEstimate

_calibrate = functools.lru_cache(maxsize=256)(accounting.calibrate)  # a sweep plans each job twice
_LOG = logging.getLogger("userdp")
Options = Mapping[str, str]  # how a claim is computed: accountant and group_bound
_DIGITS = 6  # a calibrated noise multiplier is rounded up to these, so that it prints in full


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A mechanism, the number of its rounds, and their epsilon at ``delta``."""

    mechanism: Mechanism
    rounds: int
    delta: float
    accountant: str
    group_bound: str
    epsilon: accounting.Epsilon  # of all the rounds; infinite where nothing is noised
    target: float | None  # epsilon that the claim must not exceed; None: no limit
    noise_estimate: NoiseEstimate | None = None  # if an estimating accountant is configured

    @property
    def events(self) -> int:
        """Number of the mechanism's events in all the rounds."""
        return self.mechanism.event_count(self.rounds)

    @property
    def options(self) -> Options:
        """How the claim is computed, as keyword arguments of `userdp.server.accounting`."""
        return {"accountant": self.accountant, "group_bound": self.group_bound}


def make(settings: Settings, users: int) -> Plan:
    """The plan of a run, with calibrated noise if the settings have a target epsilon.

    Args:
        users: N, declared.

    Raises:
        ConfigurationError: the settings contradict each other or no noise meets the target.
    """
    return make_at(settings, users, _delta(settings, users))


def make_at(settings: Settings, users: int, delta: float) -> Plan:
    """As `make`, at this delta, which is not compared with the number of users.

    Raises:
        ConfigurationError: as `make`, or planning takes longer than `time_limit.SECONDS`.
    """
    with time_limit.limited(_costly(settings)):
        return _made(settings, users, delta)


def _costly(settings: Settings) -> str:
    """The settings that decide how long planning takes, with their values."""
    privacy, strategy = settings.privacy, settings.strategy
    noise = (
        f"privacy.epsilon={privacy.epsilon:g}"
        if privacy.noise_multiplier is None and privacy.epsilon is not None
        else f"privacy.noise_multiplier={privacy.noise_multiplier}"
    )
    return (
        f"rounds={settings.rounds}, cohort={settings.cohort:g}, {noise}, "
        f"strategy.records_per_user={strategy.records_per_user}"
    )


def _made(settings: Settings, users: int, delta: float) -> Plan:
    privacy = settings.privacy
    build = mechanism_builder.builder(settings, users, delta)
    z, any_noise = privacy.noise_multiplier, build(1.0)
    estimator = noise_estimate.estimator(privacy)
    options = {
        "accountant": accountants.DEFAULT if estimator else privacy.accountant,
        "group_bound": privacy.group_bound,
    }
    events = any_noise.event_count(settings.rounds)
    if any_noise.private:
        if estimator:
            noise_estimate.check(any_noise.event(), privacy)
        z = z or _calibrated(any_noise.event(), events, settings, delta, options)
        mechanism = build(z)
        spent = _accounted(mechanism.event(), events, delta, options)
    else:
        mechanism = build(0.0)
        spent = accounting.Epsilon(lower=math.inf, upper=math.inf)
    adapted = mechanism_builder.adapted(mechanism, settings.strategy)
    for remark in adapted.remarks():
        _LOG.warning("%s", remark)
    return Plan(
        mechanism=adapted,
        rounds=settings.rounds,
        delta=delta,
        epsilon=spent,
        target=None if estimator else privacy.epsilon,
        noise_estimate=noise_estimate.of(estimator, mechanism.event(), events, privacy, delta)
        if estimator and mechanism.private
        else None,
        **options,
    )


def with_noise(settings: Settings, users: int, noise_multiplier: float) -> Plan:
    """The plan at a known noise multiplier: nothing is calibrated, and nothing accounted for.

    Its epsilon is 0 to infinity.

    Raises:
        ConfigurationError: the settings contradict each other.
    """
    privacy, delta = settings.privacy, _delta(settings, users)
    estimates = noise_estimate.estimator(privacy) is not None
    mechanism = mechanism_builder.builder(settings, users, delta)(noise_multiplier)
    return Plan(
        mechanism=mechanism_builder.adapted(mechanism, settings.strategy),
        rounds=settings.rounds,
        delta=delta,
        accountant=accountants.DEFAULT if estimates else privacy.accountant,
        group_bound=privacy.group_bound,
        epsilon=accounting.Epsilon(lower=0.0, upper=math.inf),
        target=None if estimates else privacy.epsilon,
    )


def bare(settings: Settings) -> Plan:
    """The plan for declared users, or for ``plan.sampling_rate`` instead of them.

    Raises:
        ConfigurationError: as `make`; or neither the rate (with delta) nor ``privacy.users`` is
            given, or both are, or the rate alone does not determine the price.
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
            f"privacy.users={users}: plan.sampling_rate={rate} replaces it; give one of them."
        )
    users = 2**20  # with a power of two, cohort / users is exactly the rate
    at_rate = replace(settings, cohort=rate * users)
    _check_rate_suffices(at_rate, users, rate, settings.privacy.delta)
    plan = make_at(at_rate, users, settings.privacy.delta)
    if plan.mechanism.sampling_rate != rate:
        raise ConfigurationError(
            f"plan.sampling_rate={rate}: strategy={settings.strategy.name} draws its cohorts "
            "another way; give privacy.users and cohort instead."
        )
    return plan


def _check_rate_suffices(settings: Settings, users: int, rate: float, delta: float) -> None:
    """Refuse options whose price depends on the number of users; before noise is searched for."""
    strategy = settings.strategy
    mechanism = mechanism_builder.builder(settings, users, delta)(1.0)
    adaptive = [] if strategy.clip_quantile is None else ["clip_quantile"]
    for name in [*adaptive, *mechanism.depends_on_users()]:
        value = strategy.options.get(name, getattr(strategy, name, None))
        raise ConfigurationError(
            f"strategy.{name}={value}: plan.sampling_rate={rate} says nothing of the number of "
            "users, which the price of this option depends on; give privacy.users instead."
        )


def described(plan: Plan, settings: Settings, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The plan as plain values, as ``userdp plan --json`` prints it; infinity is None.

    Args:
        names: accountants under ``accountants``; None: all that certify.
    """
    mechanism = plan.mechanism
    # With plan.sampling_rate the number of users, and so the cohort of the plan, is arbitrary.
    bare_rate = settings.plan.sampling_rate is not None
    expected = settings.cohort * mechanism.group_size if bare_rate else mechanism.expected_units
    return {
        "strategy": settings.strategy.name,
        "records_per_user": settings.strategy.records_per_user,
        "rounds": plan.rounds,
        "sampling_rate": mechanism.sampling_rate,
        "expected_cohort": expected,
        "delta": plan.delta,
        "noise_multiplier": mechanism.noise_multiplier,
        "epsilon": {"lower": finite(plan.epsilon.lower), "upper": finite(plan.epsilon.upper)},
        "accountants": _by_accountant(
            plan, accountants.certified_names() if names is None else names
        )
        if mechanism.private
        else {},
        "noise_std_on_mean": mechanism.noise_std / expected,
        **({"steering": vars(plan.noise_estimate)} if plan.noise_estimate else {}),
        **_cap_cost(plan),
    }


def _cap_cost(plan: Plan) -> dict[str, Any]:
    """The cap of the cohort, and epsilon of the same noise without it; empty without a cap."""
    event = plan.mechanism.event() if plan.mechanism.private else None
    if event is None or event.cohort_cap is None:
        return {}
    without = _epsilon(event.uncapped(), plan.events, plan.delta, plan.options)
    return {"cohort_cap": event.cohort_cap, "epsilon_without_cap": finite(without.upper)}


def finite(value: float) -> float | None:
    """The value, or None if it is infinite or NaN, which JSON does not have."""
    return value if math.isfinite(value) else None


def bound_of(accountant: str, plan: Plan) -> str:
    """The group bound for this accountant: the lemma where it does not analyse mixtures."""
    return plan.group_bound if accountants.find(accountant).analyses_mixtures else "lemma"


def _by_accountant(plan: Plan, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each accountant, epsilon of the plan's noise and the noise for the plan's target."""
    return {
        name: dict(zip(("epsilon", "noise_multiplier"), _figures(plan, name), strict=True))
        | {"certified": True}
        for name in names
    }


def _figures(plan: Plan, accountant: str) -> tuple[float | None, float | None]:
    """Epsilon at the plan's noise, and noise for the plan's target; None if it has no figure."""
    if accountant == plan.accountant:
        noise = None if plan.target is None else plan.mechanism.noise_multiplier
        return finite(plan.epsilon.upper), noise
    event = plan.mechanism.event()
    options = {"accountant": accountant, "group_bound": bound_of(accountant, plan)}
    try:
        spent = _epsilon(event, plan.events, plan.delta, options).upper
        if plan.target is None:
            return finite(spent), None
        return finite(spent), _calibrate(event, plan.events, plan.target, plan.delta, **options)
    except (ValueError, OverflowError) as error:
        _LOG.warning("%s", error)
        return None, None


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
    event: accounting.RoundEvent, events: int, settings: Settings, delta: float, options: Options
) -> float:
    target = settings.privacy.epsilon
    if target is None:  # Settings refuses a private strategy with neither
        raise ConfigurationError("privacy.epsilon=None: give a target or a noise multiplier.")
    try:
        if estimator := noise_estimate.estimator(settings.privacy):
            order = settings.privacy.edgeworth_order
            z = estimator.calibrate(event, events, target, delta, order=order)
        else:
            z = _calibrate(event, events, target, delta, **options)
    except (ValueError, ArithmeticError) as error:
        raise ConfigurationError(f"privacy.epsilon={target:g}: {error}") from None
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(z)))
    return math.ceil(z * scale) / scale


def _accounted(
    event: accounting.RoundEvent, events: int, delta: float, options: Options
) -> accounting.Epsilon:
    try:
        return _epsilon(event, events, delta, options)
    except (OverflowError, ZeroDivisionError):  # losses beyond float64
        z = event.noise_multiplier
        raise ConfigurationError(
            f"privacy.noise_multiplier={z:g}: epsilon of so little noise is beyond what can be "
            "certified; take more noise, fewer rounds or a smaller cohort."
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"privacy.accountant={options['accountant']}: {error}") from None


def _epsilon(
    event: accounting.RoundEvent, events: int, delta: float, options: Options
) -> accounting.Epsilon:
    return accounting.epsilon(
        [(event, events)],
        delta,
        accountant=options["accountant"],
        group_bound=options["group_bound"],
    )
