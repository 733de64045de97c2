"""Settings of the strategy: those of every mechanism, and the options of the chosen one."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import pydantic

from userdp.server.mechanisms import registry
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown
from userdp.sim.config import refusal
from userdp.sim.config.field_types import Closed, Code, Flag, Positive, Real, Share, Whole


@dataclass(frozen=True, kw_only=True)
class Strategy(Closed):
    """The group ``strategy``; keys that are not fields of this class are options of the mechanism.

    Raises:
        ConfigurationError: a value is out of range, or the mechanism has no such option.
    """

    name: Code  # of `userdp.server.mechanisms.registry.MECHANISMS`, or the dotted name of a class
    records_per_user: Annotated[Whole, Between(1, 1_000_000)] | Literal["all"]
    clip_norm: Annotated[Real, Between(1e-9, 1e9)] | None
    local_steps: Annotated[Whole, Between(1, 100_000)]
    local_lr: Annotated[Real, Between(0, 1e6, above=True)]
    resample: Flag
    clip_quantile: Share | None = None  # if given, the clip norm adapts; it starts at clip_norm
    clip_learning_rate: Annotated[Real, Between(0, 100, above=True)] = 0.2
    clip_bit_noise: Positive | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the mechanism, by field name

    def __post_init__(self) -> None:
        if self.clip_quantile is None and self.clip_bit_noise is not None:
            raise ConfigurationError(
                f"strategy.clip_bit_noise={self.clip_bit_noise}: needs "
                "strategy.clip_quantile beside it."
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

    Raises:
        ConfigurationError: ``options`` is given as a key beside others.
    """
    if not isinstance(values, Mapping):
        return values
    common = {item.name for item in fields(Strategy)}
    if "options" in values:
        if values["options"] is not None and set(values) <= common:
            return values
        raise ConfigurationError(
            f"strategy.options={shown(values['options'])}: an option is set by its own name, "
            "strategy.NAME=VALUE; leave it out."
        )
    again = ("mechanism", values.get("name"))
    options = {
        key: value
        for key, value in values.items()
        if key not in common and (key, value) != again and value is not None
    }
    return {key: value for key, value in values.items() if key in common} | {"options": options}


def _check_type(mechanism: type[Mechanism], name: str, value: Any) -> None:
    """Refuse a value that is not of the type of the mechanism's field."""
    kind = typing.get_type_hints(mechanism, include_extras=True)[name]
    try:
        pydantic.TypeAdapter(kind, config=pydantic.ConfigDict(strict=True)).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigurationError(refusal.line(error, value, f"strategy.{name}")) from None
