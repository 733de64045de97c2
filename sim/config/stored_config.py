"""The configuration that a run folder holds, for a resumed run and for those who read its results.

It holds plain values alone: an interpolation in it could read the environment of whoever opens it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from userdp.sim.common import foreign_code, renamed
from userdp.sim.common.bounds import Kind
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown
from userdp.sim.config import validation
from userdp.sim.config.settings import Settings
from userdp.sim.run_folder.layout import RunFolder


def stored(folder: RunFolder, like: Settings | None = None) -> tuple[Settings, DictConfig]:
    """The configuration that a run was started with.

    Args:
        folder: of the run.
        like: settings of this command, if any; code that they name may be loaded.

    Raises:
        ConfigurationError: there is none, or it is not valid.
    """
    config = changed(str(folder.path), [])
    return parsed(config, list(like.code_names.values()) if like else []), config


def parsed(config: DictConfig, named: Sequence[str]) -> Settings:
    """The settings of a stored configuration.

    Args:
        named: names of code that the user has given beside it.

    Raises:
        ConfigurationError: a value does not fit, or it names other code of another package.
    """
    with foreign_code.named_by_a_run_folder(named):
        settings = validation.parse(config)
        for setting, name in settings.code_names.items():  # those that are loaded later, too
            foreign_code.check(setting, name)
    return settings


def changed(folder: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of an earlier run, with further overrides of plain values.

    Raises:
        ConfigurationError: there is none, it is damaged, or an override changes a group.
    """
    path = RunFolder(Path(folder)).config
    if (fault := Kind("path").fault(folder)) is not None:
        raise ConfigurationError(f"resume={shown(folder)}: should be {fault}.")
    if not path.is_file():
        raise ConfigurationError(f"resume={folder}: there is no {path}; {again(folder)}.")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
        if not values:
            raise ValueError("it is empty")
        _check_plain(values)
        configuration: DictConfig = OmegaConf.create(renamed.completed(values))
        changes: Any = OmegaConf.from_dotlist(list(overrides))
        merged: Any = OmegaConf.merge(configuration, changes)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"resume={folder}: {path.name} is damaged ({reason}); {again(folder)}."
        ) from None
    for name in changes:
        is_group = OmegaConf.is_dict(OmegaConf.select(configuration, name))
        if is_group and not OmegaConf.is_dict(changes[name]):
            raise ConfigurationError(
                f"{name}={changes[name]}: a resumed run keeps its {name}; start a new run instead."
            )
    config: DictConfig = merged
    return config


def again(folder: str) -> str:
    """What to do about a folder that has no configuration that can be read."""
    if not RunFolder(Path(folder)).path.is_dir():
        return "name a run folder"
    return f"name a run folder, or give the run's first command again, with output={folder}"


def _check_plain(values: Any) -> None:
    """Refuse interpolations, which a run never stores: they could read the environment."""
    if isinstance(values, str) and "${" in values:
        raise ValueError("its config.yaml holds an interpolation, which no run stores.")
    if isinstance(values, Mapping):
        values = list(values.values())
    for value in values if isinstance(values, list) else []:
        _check_plain(value)
