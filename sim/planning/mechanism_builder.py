"""Builds the mechanism of a run from the settings of its strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings
from userdp.sim.config.strategy import Strategy


def builder(settings: Settings, users: int, delta: float) -> Callable[[float], Mechanism]:
    """The mechanism of a run as a function of its noise multiplier, at a fixed clip norm.

    Args:
        users: N, declared.
        delta: of the claim.

    Raises:
        ConfigurationError: a private mechanism has no clip norm. The returned function raises it
            where a parameter is out of range.
    """
    strategy = settings.strategy
    cls = strategy.mechanism
    if strategy.clip_norm is None and cls.private:
        raise ConfigurationError("strategy.clip_norm=None: a private strategy needs a clip norm.")
    options: dict[str, Any] = {"records_per_user": strategy.k, **strategy.options}
    options["noise"] = settings.privacy.noise
    if strategy.clip_norm is not None:
        options["clip_norm"] = strategy.clip_norm

    def build(noise_multiplier: float) -> Mechanism:
        z = noise_multiplier if cls.private else 0.0
        mechanism = cls(users=users, cohort=settings.cohort, noise_multiplier=z, **options)
        target = settings.privacy.epsilon
        return mechanism.for_run(rounds=settings.rounds, delta=delta, epsilon=target)

    return build


def adapted(mechanism: Mechanism, strategy: Strategy) -> Mechanism:
    """The mechanism with an adaptive clip norm if ``strategy.clip_quantile`` is set.

    Its event, and so its price, is the same.

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
