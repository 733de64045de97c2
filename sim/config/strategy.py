"""Settings of the strategy: those of every mechanism, and the options of the chosen one."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pydantic

from userdp.server.mechanisms import registry
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.field_types import Closed, Number, Whole


@dataclass(frozen=True, kw_only=True)
class Strategy(Closed):
    """The group ``strategy``; keys that are not fields of this class are options of the mechanism.

    Raises:
        ConfigurationError: a value is out of range, or the mechanism has no such option.
    """

    name: str  # of `userdp.server.mechanisms.registry.MECHANISMS`, or the dotted name of a class
    records_per_user: Whole | Literal["all"]
    clip_norm: Number | None
    local_steps: Whole
    local_lr: Number
    resample: bool
    clip_quantile: Number | None = None  # if given, the clip norm adapts; it starts at clip_norm
    clip_learning_rate: Number = 0.2
    clip_bit_noise: Number | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the mechanism, by field name

    def __post_init__(self) -> None:
        if self.clip_quantile is None and self.clip_bit_noise is not None:
            raise ConfigurationError(
                f"strategy.clip_bit_noise={self.clip_bit_noise}: needs "
                "strategy.clip_quantile beside it."
            )
        if self.records_per_user != "all" and self.records_per_user < 1:
            raise ConfigurationError(
                f"strategy.records_per_user={self.records_per_user}: must be 1 or more, or all."
            )
        if self.local_steps < 1:
            raise ConfigurationError(f"strategy.local_steps={self.local_steps}: must be 1 or more.")
        if not 0 < self.local_lr < math.inf:
            raise ConfigurationError(
                f"strategy.local_lr={self.local_lr}: must be positive and finite."
            )
        self._check_options()

    def _check_options(self) -> None:
        mechanism = self.mechanism
        for name, value in self.options.items():
            if name not in mechanism.options():
                raise ConfigurationError(
                    f"strategy.{name}={value}: strategy={self.name} has no such option; leave it "
                    "out, or choose a strategy whose file in conf/strategy lists it."
                )
            _check_type(mechanism, name, value)

    @property
    def mechanism(self) -> type[Mechanism]:
        """The class of the mechanism."""
        return registry.find(self.name)

    @property
    def k(self) -> int:
        """Records per user; 0 for all."""
        return 0 if self.records_per_user == "all" else self.records_per_user


def gather_options(values: Any) -> Any:
    """The values of the group ``strategy`` with the mechanism's keys moved under ``options``.

    Keys without a value are left out, so that the mechanism's default holds. Configurations of
    older versions have empty keys of other mechanisms, and name the mechanism a second time as
    ``mechanism``: these are left out too.

    Args:
        values: of the group, as composed; anything but a mapping is returned unchanged.
    """
    if not isinstance(values, Mapping) or "options" in values:
        return values
    common = {item.name for item in fields(Strategy)}
    again = ("mechanism", values.get("name"))
    options = {
        key: value
        for key, value in values.items()
        if key not in common and (key, value) != again and value is not None
    }
    return {key: value for key, value in values.items() if key in common} | {"options": options}


def _check_type(mechanism: type[Mechanism], name: str, value: Any) -> None:
    """Refuse a value that is not of the type of the mechanism's field."""
    kind = typing.get_type_hints(mechanism)[name]
    try:
        pydantic.TypeAdapter(kind, config=pydantic.ConfigDict(strict=True)).validate_python(value)
    except pydantic.ValidationError as error:
        wanted = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise ConfigurationError(f"strategy.{name}={value}: should be {wanted}.") from None
