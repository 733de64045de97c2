"""Hydra at the boundary: overrides in, checked settings out; no other file knows Hydra's ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import validation
from userdp.sim.config.settings import Settings

_CONF, _VERSION = "userdp.conf", "1.3"
_GRIDS = "grids"  # of an experiment: choices by grid, where one product does not hold all jobs
_QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")
OmegaConf.register_new_resolver(
    "unless", lambda value, other: other if value is None else None, replace=True
)


def settings(overrides: Sequence[str]) -> tuple[Settings, DictConfig]:
    """Compose and check one configuration; with ``resume=RUN``, the one that run was started with.

    Raises:
        ConfigurationError: an unknown key or group, or a value that does not fit.
    """
    resumed = value(overrides, "resume")
    config = _composed(overrides) if resumed is None else _stored(resumed, overrides)
    with open_dict(config):
        config.pop(_GRIDS, None)
    if "compare" in config:
        raise ConfigurationError("+experiment=selections: start it with userdp compare.")
    return validation.parse(config), config


def experiment(
    name: str, block: str, overrides: Sequence[str]
) -> tuple[DictConfig, DictConfig | None]:
    """Compose with ``conf/experiment/<name>.yaml``; its block of further keys comes apart.

    Raises:
        ConfigurationError: an unknown key or group.
    """
    config = _composed([f"+experiment={name}", *overrides])
    with open_dict(config):
        own = config.pop(block, None)
    return config, own


def single(overrides: Sequence[str]) -> None:
    """One run."""
    asked, config = settings(overrides)
    from userdp.sim.run import runner  # heavy: a wrong configuration is refused before it

    runner.run(asked, validation.resolved(config))


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper would split them.

    An experiment's ``hydra.sweeper.params`` are choices too, and each of its ``grids`` is a product
    of its own, in their order; what the command says goes before.

    Raises:
        ConfigurationError: an override does not read, or Hydra knows no such launcher.
    """
    for name in ("hydra.sweep.subdir", "hydra/sweeper"):
        if value(overrides, name) is not None:
            raise ConfigurationError(
                f"{name}: a sweep is a grid, and its job folders are numbered; leave it out."
            )
    choices = _choices_of_experiment(overrides)
    grids = _grids_of_experiment(overrides)
    return [job for grid in grids for job in _product([*choices, *grid, *overrides])]


def _product(overrides: Sequence[str]) -> list[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    try:
        [split] = BasicSweeper.split_arguments(_parsed(overrides), max_batch_size=None)
    except HydraException as error:  # a range of numbers
        raise ConfigurationError(f"{_one_line(error)}; list the values.") from None
    return [[item for item in job if not item.startswith("hydra")] for job in split]


def launch(
    task: Callable[[DictConfig], Any],
    numbers: Sequence[int],
    folder: Path,
    overrides: Sequence[str],
) -> list[Any]:
    """Call ``task`` once with each number as ``config.job``, through the launcher asked for.

    Hydra's multirun with jobs that differ in their number alone. The task must not raise, and be
    known by name where other processes carry it out.
    """
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    own = [f"hydra.sweep.dir='{quoted}'", "hydra.sweep.subdir=.", "hydra.sweeper.params=null"]
    asked = _of_hydra(overrides)
    # Hydra composes its part of the configuration twice a job; ours only an experiment needs.
    name = "config" if any("experiment=" in item for item in asked) else None
    every = [*asked, *_QUIET, *own, f"+job={','.join(map(str, numbers))}"]
    with hydra.initialize_config_module(_CONF, version_base=_VERSION, job_name="userdp"):
        batches = GlobalHydra.instance().hydra.multirun(name, task, every)  # type: ignore[union-attr]
    return [job.return_value for batch in batches for job in batch]


def launches_here(overrides: Sequence[str]) -> bool:
    """Whether jobs are carried out in this process, by Hydra's own launcher."""
    config = _hydras(overrides)
    target = None if config is None else OmegaConf.select(config, "hydra.launcher._target_")
    return target is None or target.endswith(".BasicLauncher")


def _choices_of_experiment(overrides: Sequence[str]) -> list[str]:
    config = _hydras(overrides)
    params = (config and OmegaConf.select(config, "hydra.sweeper.params")) or {}
    return [f"{key}={value}" for key, value in params.items()]


def _grids_of_experiment(overrides: Sequence[str]) -> list[list[str]]:
    """One empty grid where no experiment is named, or it has none."""
    name = value(overrides, "+experiment")
    grids = None if name is None else experiment(name, _GRIDS, [])[1]
    if grids is None:
        return [[]]
    return [[f"{key}={choices}" for key, choices in grid.items()] for grid in grids.values()]


def _hydras(overrides: Sequence[str]) -> DictConfig | None:
    """The configuration with Hydra's own part; None where nothing is said of that."""
    asked = _of_hydra(overrides)
    if not asked:
        return None
    try:
        with hydra.initialize_config_module(_CONF, version_base=_VERSION):
            return hydra.compose("config", overrides=asked, return_hydra_config=True)
    except HydraException as error:
        told = f"{' '.join(asked)}: {_one_line(error)}"
        if "hydra/launcher" in str(error):
            told += " pip install 'userdp[sweep]' brings joblib and submitit."
        raise ConfigurationError(told) from None


def _of_hydra(overrides: Sequence[str]) -> list[str]:
    """What says how jobs are made and launched: Hydra's own part, and an experiment's name."""
    named = zip(overrides, _parsed(overrides), strict=True)
    return [
        item
        for item, override in named
        if not override.is_sweep_override()
        and re.match(r"hydra\b|experiment$", override.key_or_group)
        and override.key_or_group != "hydra.sweep.dir"
    ]


def value(overrides: Sequence[str], key: str) -> str | None:
    """The text of the last override of a key; None where there is none, or it is null."""
    given = [item.partition("=")[2] for item in overrides if item.startswith(f"{key}=")]
    return given[-1] if given and given[-1] not in ("", "null") else None


def _composed(overrides: Sequence[str]) -> DictConfig:
    _parsed(overrides)
    try:
        with hydra.initialize_config_module(_CONF, version_base=_VERSION):
            config = hydra.compose("config", overrides=list(overrides))
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_unknown_key(error, overrides) or _one_line(error)) from None
    return config


def _stored(folder: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of an earlier run, with further overrides of plain values."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise ConfigurationError(f"resume={folder}: there is no {path}; name a run folder.")
    try:
        stored: Any = OmegaConf.load(path)
        changes: Any = OmegaConf.from_dotlist(list(overrides))
        merged: Any = OmegaConf.merge(stored, changes)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigurationError(f"resume={folder}: {_one_line(error)}") from None
    for name in changes:
        if OmegaConf.is_dict(OmegaConf.select(stored, name)) and not OmegaConf.is_dict(
            changes[name]
        ):
            raise ConfigurationError(
                f"{name}={changes[name]}: a resumed run keeps its {name}; start a new run instead."
            )
    return merged


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """One by one, since the parser's own message does not name the override."""
    parser = OverridesParser.create()
    parsed = []
    for item in overrides:
        try:
            parsed.append(parser.parse_override(item))
            if parsed[-1].key_or_group:
                continue
        except HydraException:
            pass
        raise ConfigurationError(
            f"{item}: does not read as name=value; special characters need quotes, "
            f"'name=\"value\"'."
        )
    return parsed


def _unknown_key(error: Exception, overrides: Sequence[str]) -> str | None:
    """The line for a key that the configuration does not have; None where it is something else."""
    found = re.match(r"Could not override '([^']+)'", str(error))
    if found is None:
        return None
    given = [item for item in overrides if item.startswith(f"{found[1]}=")]
    return f"{(given or [found[1]])[0]}: no such key; leave it out, or look for its name in conf."


def _one_line(error: Exception) -> str:
    text = str(error).split("Config search path")[0].split("Set the environment")[0]
    return " ".join(text.split())
