"""Hydra at the boundary: overrides in, checked settings out; the only file that knows Hydra's ways."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sim import settings as schema
from sim.errors import ConfigurationError
from sim.settings import Settings

_CONF, _VERSION = "conf", "1.3"
OmegaConf.register_new_resolver("unless", lambda value, other: other if value is None else None)


def settings(overrides: Sequence[str]) -> tuple[Settings, DictConfig]:
    """Compose and check one configuration; with ``resume=RUN``, the one that run was started with.

    Raises:
        ConfigurationError: an unknown key or group, or a value that does not fit.
    """
    resumed = [item for item in overrides if item.startswith("resume=")]
    if resumed and resumed[0] != "resume=null":
        config = _stored(resumed[0].removeprefix("resume="), overrides)
    else:
        config = _composed(overrides)
    return schema.parse(config), config


def single(overrides: Sequence[str]) -> None:
    """One run."""
    from sim import run

    asked, config = settings(overrides)
    run.run(asked, schema.resolved(config))


def sweep(overrides: Sequence[str]) -> None:
    """A Hydra multirun: every job's configuration is checked before the first one starts."""
    for job in _jobs(overrides):
        settings(job)
    folder = "${now:%Y-%m-%d}/${now:%H-%M-%S}"
    fixed = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null"]
    if not any(item.startswith("hydra.sweep.dir=") for item in overrides):
        fixed.append(f"hydra.sweep.dir=multirun/{folder}")
    sys.argv = ["userdp", "-m", *fixed, *overrides]
    hydra.main(version_base=_VERSION, config_path=f"pkg://{_CONF}", config_name="config")(_job)()


def _job(config: DictConfig) -> None:
    from sim import run

    hydra_config = HydraConfig.get()
    OmegaConf.update(config, "output", hydra_config.runtime.output_dir)
    OmegaConf.update(config, "sweep", hydra_config.sweep.dir)
    run.run(schema.parse(config), schema.resolved(config))


def _composed(overrides: Sequence[str]) -> DictConfig:
    try:
        with hydra.initialize_config_module(_CONF, version_base=_VERSION):
            config = hydra.compose("config", overrides=list(overrides))
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_one_line(error)) from None
    return config


def _stored(folder: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of an earlier run, with further overrides of plain values."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise ConfigurationError(f"resume={folder}: there is no {path}; name a run folder.")
    merged: Any = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
    return merged


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper would split them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigurationError(_one_line(error)) from None
    [jobs] = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [[item for item in job if not item.startswith("hydra")] for job in jobs]


def _one_line(error: Exception) -> str:
    text = str(error).split("Config search path")[0].split("Set the environment")[0]
    return " ".join(
        text.replace("To append to your config use", "(unknown key; if new, use").split()
    )
