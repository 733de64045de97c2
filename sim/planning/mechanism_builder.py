"""From the settings of a strategy to its mechanism; what it costs is `userdp.sim.planning.planner`'s concern."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from hydra.utils import get_class

from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings, Strategy


def builder(settings: Settings, users: int, delta: float) -> Callable[[float], Mechanism]:
    """The mechanism of a run as a function of its noise multiplier, at a fixed clip norm.

    Raises:
        ConfigurationError: no such mechanism, or a setting that it does not have.
    """
    strategy = settings.strategy
    cls = _class(strategy)
    if strategy.clip_norm is None and cls.private:
        raise ConfigurationError("strategy.clip_norm=None: a private strategy needs a clip norm.")
    options: dict[str, Any] = {"records_per_user": strategy.k, **_own(strategy, cls)}
    if strategy.clip_norm is not None:
        options["clip_norm"] = strategy.clip_norm

    def build(noise_multiplier: float) -> Mechanism:
        z = noise_multiplier if cls.private else 0.0
        made = cls(users=users, cohort=settings.cohort, noise_multiplier=z, **options)
        target = settings.privacy.epsilon
        return made.for_run(rounds=settings.rounds, delta=delta, epsilon=target)

    return build


def adapted(mechanism: Mechanism, strategy: Strategy) -> Mechanism:
    """The mechanism with the clip norm set free, where the strategy asks for it; costs the same.

    Raises:
        ConfigurationError: the noise leaves no room for the clip bits, or nothing is clipped.
    """
    if strategy.clip_quantile is None:
        return mechanism
    rule = AdaptiveClip(
        quantile=strategy.clip_quantile,
        learning_rate=strategy.clip_learning_rate,
        bit_noise=strategy.clip_bit_noise,
    )
    return replace(mechanism, adaptive=rule)


def _own(strategy: Strategy, cls: type[Mechanism]) -> Mapping[str, Any]:
    options, known = strategy.own(), {field.name for field in fields(cls)}
    for name, value in options.items():
        if name not in known:
            raise ConfigurationError(
                f"strategy.{name}={value}: strategy={strategy.name} has no such option; leave it "
                "out, or choose a strategy whose file in conf/strategy lists it."
            )
    return options


def _class(strategy: Strategy) -> type[Mechanism]:
    try:
        cls = get_class(strategy.mechanism)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"strategy.mechanism={strategy.mechanism}: {error}") from None
    if not issubclass(cls, Mechanism) or cls.private == (strategy.name == "non_private"):
        raise ConfigurationError(
            f"strategy.mechanism={strategy.mechanism}: not a mechanism of strategy={strategy.name}."
        )
    return cls
