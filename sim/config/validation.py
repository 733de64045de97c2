"""Validates a composed configuration; every failure becomes an error of one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings


def parse(config: DictConfig) -> Settings:
    """The settings of a composed configuration, with types and ranges checked.

    Raises:
        ConfigurationError: one line about the first wrong field.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigurationError(f"{missing[0]} is missing: give it a value, {missing[0]}=...")
    values = resolved(config)
    try:
        return pydantic.TypeAdapter(Settings).validate_python(values)
    except pydantic.ValidationError as error:
        raise _first(error, values) from None


def _first(error: pydantic.ValidationError, values: Mapping[str, Any]) -> ConfigurationError:
    """The first problem: that of our own check, else the field and its type."""
    ours = error.errors()[0].get("ctx", {}).get("error")
    if isinstance(ours, ConfigurationError):
        return ours
    return ConfigurationError(_line(error, values))


def _line(error: pydantic.ValidationError, values: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    name, value = _located(first["loc"], values)
    if first["type"] == "unexpected_keyword_argument":
        return f"{name}={value}: no such key; leave it out."
    if first["type"] == "missing":
        return f"{name} is missing: give it a value, {name}=..."
    wanted = [
        problem["msg"] for problem in error.errors() if _located(problem["loc"], values)[0] == name
    ]
    expected = ", or ".join(text.removeprefix("Input should be ") for text in dict.fromkeys(wanted))
    return f"{name}={value}: should be {expected}."


def _located(place: tuple[int | str, ...], values: Any) -> tuple[str, Any]:
    """The dotted name and the value of a field; pydantic's names of union members are dropped."""
    names = []
    for part in place:
        if isinstance(values, Mapping) and part in values:
            names.append(str(part))
            values = values[part]
        elif isinstance(values, Mapping):  # a missing key
            return ".".join([*names, str(part)]), None
    return ".".join(names), values


def resolved(config: DictConfig) -> Mapping[str, Any]:
    """The composed configuration as plain values, without Hydra's part.

    Raises:
        ConfigurationError: an interpolation cannot be resolved.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigurationError(str(error).splitlines()[0]) from None
    return {name: value for name, value in plain.items() if name != "hydra"}
