"""Validates a composed configuration; every failure becomes an error of one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import interpolation, refusal
from userdp.sim.config.settings import Settings


def parse(config: DictConfig) -> Settings:
    """The settings of a composed configuration, with types and ranges checked.

    Raises:
        ConfigurationError: one line about the first wrong field.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
    except OmegaConfBaseException:  # an interpolation, which is named by what follows
        resolved(config)
        raise
    if missing:
        raise ConfigurationError(f"{missing[0]} is missing: give it a value, {missing[0]}=...")
    return refusal.checked(Settings, resolved(config))


def resolved(config: DictConfig) -> Mapping[str, Any]:
    """The composed configuration as plain values, without Hydra's part.

    Raises:
        ConfigurationError: an interpolation cannot be resolved.
    """
    return {name: value for name, value in interpolation.plain(config).items() if name != "hydra"}
