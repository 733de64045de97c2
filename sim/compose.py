"""Hydra at the boundary: overrides in, checked settings out; no other file knows Hydra's ways."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sim import parsing
from sim.errors import ConfigurationError
from sim.settings import Settings

_CONF, _VERSION = "conf", "1.3"
_QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")
OmegaConf.register_new_resolver(
    "unless", lambda value, other: other if value is None else None, replace=True
)


def settings(overrides: Sequence[str]) -> tuple[Settings, DictConfig]:
    """Compose and check one configuration; with ``resume=RUN``, the one that run was started with.

    Raises:
        ConfigurationError: an unknown key or group, or a value that does not fit.
    """
    resumed = _value(overrides, "resume")
    config = _composed(overrides) if resumed is None else _stored(resumed, overrides)
    return parsing.parse(config), config


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
    from sim import run  # heavy: a wrong configuration is refused before it

    run.run(asked, parsing.resolved(config))


def sweep(overrides: Sequence[str]) -> None:
    """A Hydra multirun; ``output=FOLDER`` holds its runs.

    Raises:
        ConfigurationError: before the first job starts, whichever job is wrong.
    """
    if _value(overrides, "resume") is not None:
        raise ConfigurationError("resume: one run at a time; leave out -m.")
    folder = _sweep_folder(overrides)
    plain = [item for item in overrides if not item.startswith(("output=", "hydra.sweep.dir="))]
    asked = [settings(job)[0] for job in _jobs(plain)]
    from sim import prepare  # heavy

    prepare.check(asked)
    command = ["userdp", "-m", *_QUIET, f"hydra.sweep.dir={folder}", *plain]
    with _command_line(command):
        hydra.main(version_base=_VERSION, config_path=f"pkg://{_CONF}", config_name="config")(
            _job
        )()


def _job(config: DictConfig) -> None:
    from sim import run

    job = HydraConfig.get()
    OmegaConf.update(config, "output", job.runtime.output_dir)
    OmegaConf.update(config, "sweep", job.sweep.dir)
    run.run(parsing.parse(config), parsing.resolved(config))


@contextlib.contextmanager
def _command_line(command: list[str]) -> Iterator[None]:
    """What Hydra reads: the command, and the wish to see errors as they were raised."""
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": "1"}),
    ):
        yield


def _sweep_folder(overrides: Sequence[str]) -> str:
    folder = _value(overrides, "output") or _value(overrides, "hydra.sweep.dir")
    if folder is None:
        return f"multirun/{'${now:%Y-%m-%d}'}/{'${now:%H-%M-%S-%f}'}"
    if "$" not in folder and any(Path(folder).glob("*/ledger.jsonl")):
        raise ConfigurationError(f"output={folder}: it holds runs already; choose a new folder.")
    return folder


def _value(overrides: Sequence[str], key: str) -> str | None:
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


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper would split them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    [jobs] = BasicSweeper.split_arguments(_parsed(overrides), max_batch_size=None)
    return [[item for item in job if not item.startswith("hydra")] for job in jobs]


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
