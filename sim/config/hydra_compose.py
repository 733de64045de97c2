"""Composes configurations by Hydra: from overrides to checked settings, and to a sweep's jobs.

Only this module and `userdp.sim.sweep.launcher`, which starts jobs, depend on Hydra's behaviour.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from userdp.sim.common.bounds import Kind
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.foreign_code import CodeNotLoadedError
from userdp.sim.common.plain_text import printable, shown
from userdp.sim.config import interpolation, stored_config, validation
from userdp.sim.config.settings import Settings

CONFIG_MODULE, HYDRA_VERSION = "userdp.conf", "1.3"
_GRIDS = "grids"  # key of an experiment: its grids by name, if its jobs are no single product
_SEARCH_PATH = "hydra.searchpath="  # override that names further folders of configurations
# Overrides of Hydra itself that a sweep obeys; a single run, only the first. No other is ignored.
_OBEYED = ("hydra.searchpath", "hydra.sweep.dir", "hydra/launcher", "hydra.launcher",
           "hydra.sweeper.params", "hydra.job.env_set", "hydra.job.env_copy")  # fmt: skip
# A run's devices have commas between them, which are choices of a sweep to Hydra.
_LIST = re.compile(r"^(\+{0,2}device=)([\w:]+(?:,[\w:]+)+)$")
OmegaConf.register_new_resolver(
    "unless", lambda value, other: other if value is None else None, replace=True
)


def settings(overrides: Sequence[str]) -> tuple[Settings, DictConfig]:
    """Compose and check one configuration; with ``resume=RUN``, that of the stored run.

    Code of another package that the stored run names is not loaded unless an override names it
    too, or `foreign_code.VARIABLE` allows it.

    Raises:
        ConfigurationError: an unknown key or group, or a value that does not fit.
    """
    resumed = value(overrides, "resume")
    resumed = resumed if resumed is None else _unquoted(resumed)
    config = _composed(overrides) if resumed is None else stored_config.changed(resumed, overrides)
    with open_dict(config):
        config.pop(_GRIDS, None)
    if "compare" in config:
        raise ConfigurationError("+experiment=selections: start it with userdp compare.")
    if resumed is None:
        return validation.parse(config), config
    try:
        named = [item.partition("=")[2] for item in overrides]
        return stored_config.parsed(config, named), config
    except CodeNotLoadedError:
        raise
    except ConfigurationError as error:
        if overrides[1:]:  # the values of this command may be what is wrong
            raise
        raise ConfigurationError(
            f"{error} It is in {resumed}; {stored_config.again(resumed)}."
        ) from None


def experiment(
    name: str, block: str, overrides: Sequence[str]
) -> tuple[DictConfig, DictConfig | None]:
    """Compose with ``conf/experiment/<name>.yaml``, and remove one block of its keys.

    Args:
        block: the key of the block, which is no part of a run's configuration.

    Returns:
        The configuration without the block, and the block, or None where there is none.

    Raises:
        ConfigurationError: an unknown key or group.
    """
    config = _composed([f"+experiment={name}", *overrides])
    with open_dict(config):
        removed = config.pop(block, None)
    return config, removed


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper splits them.

    The choices under an experiment's ``hydra.sweeper.params`` count as well. Each of its ``grids``
    is one product of choices; the products follow each other in the order of the file. Choices on
    the command line replace those of the experiment.

    Raises:
        ConfigurationError: an override cannot be parsed or numbers the job folders, or Hydra has
            no such launcher.
    """
    keys = {override.key_or_group for override in _parsed(overrides)}
    for name in ("hydra.sweep.subdir", "hydra/sweeper", "hydra.run.dir", "hydra.job.chdir"):
        if name in keys:
            raise ConfigurationError(
                f"{name}: a sweep is a grid, its job folders are numbered, and output=FOLDER holds "
                "them; leave it out."
            )
    _check_obeyed(overrides, _OBEYED)
    choices = _choices_of_experiment(overrides)
    grids = _grids_of_experiment(overrides)
    return [job for grid in grids for job in _product([*choices, *grid, *overrides])]


def hydra_config(overrides: Sequence[str]) -> DictConfig | None:
    """The configuration with Hydra's part; None where no override concerns Hydra.

    Raises:
        ConfigurationError: Hydra has no such launcher or experiment.
    """
    named = hydra_overrides(overrides)
    if not named:
        return None
    try:
        with hydra.initialize_config_module(CONFIG_MODULE, version_base=HYDRA_VERSION):
            return hydra.compose("config", overrides=named, return_hydra_config=True)
    except HydraException as error:
        message = f"{' '.join(named)}: {_one_line(error)}"
        if "hydra/launcher" in str(error):
            message += " The extra 'sweep' of userdp installs joblib and submitit."
        raise ConfigurationError(message) from None


def hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of Hydra itself and of the experiment: how jobs are made and launched."""
    parsed = zip(overrides, _parsed(overrides), strict=True)
    return [
        item
        for item, override in parsed
        if not override.is_sweep_override()
        and re.match(r"hydra\b|experiment$", override.key_or_group)
        and override.key_or_group != "hydra.sweep.dir"
    ]


def value(overrides: Sequence[str], key: str) -> str | None:
    """The value in the last override of a key, as text; None if it is null or there is none."""
    named = [item.lstrip("+") for item in overrides]  # `++output=` names the same key
    values = [item.partition("=")[2] for item in named if item.startswith(f"{key.lstrip('+')}=")]
    return values[-1] if values and values[-1] != "null" else None


def sweep_folder(overrides: Sequence[str]) -> str | None:
    """The folder that ``output=`` or ``hydra.sweep.dir=`` gives a sweep; None without either.

    Interpolations in it are resolved once, for all jobs: ``${now:%Y}``, ``${hydra:job.name}``, or
    a value that no job changes.

    Raises:
        ConfigurationError: it is empty, a choice of several, or cannot be resolved.
    """
    for key in ("output", "hydra.sweep.dir"):
        given = value(overrides, key)
        if given is not None:
            break
    else:
        return None
    parsed = zip(overrides, _parsed(overrides), strict=True)
    common = [
        item
        for item, override in parsed
        if not override.is_sweep_override() and _concerns_job(item) and not _is_place(item)
    ]
    config = _composed([*common, f"output={given}"])
    folder = config.output
    if not isinstance(folder, str) or (fault := Kind("path").fault(folder)) is not None:
        fault = "a path" if not isinstance(folder, str) else fault
        raise ConfigurationError(f"{key}={shown(folder)}: should be {fault}.")
    return folder


def without_place(overrides: Sequence[str]) -> list[str]:
    """The overrides but for those that name the folder of a sweep."""
    return [item for item in overrides if not _is_place(item)]


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _is_place(override: str) -> bool:
    return override.lstrip("+").startswith(("output=", "hydra.sweep.dir="))


def _product(overrides: Sequence[str]) -> list[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    try:
        [split] = BasicSweeper.split_arguments(_parsed(overrides), max_batch_size=None)
    except HydraException as error:  # a range of numbers
        raise ConfigurationError(f"{_one_line(error)}; list the values.") from None
    return [[item for item in job if _concerns_job(item)] for job in split]


def _concerns_job(override: str) -> bool:
    return not override.startswith("hydra") or override.startswith(_SEARCH_PATH)


def _choices_of_experiment(overrides: Sequence[str]) -> list[str]:
    config = hydra_config(overrides)
    params = (config and OmegaConf.select(config, "hydra.sweeper.params")) or {}
    return [f"{key}={choices}" for key, choices in params.items()]


def _grids_of_experiment(overrides: Sequence[str]) -> list[list[str]]:
    """One empty grid where no experiment is named, or it has no grids."""
    name = value(overrides, "+experiment")
    paths = [item for item in overrides if item.startswith(_SEARCH_PATH)]
    grids = None if name is None else experiment(name, _GRIDS, paths)[1]
    if grids is None:
        return [[]]
    return [[f"{key}={choices}" for key, choices in grid.items()] for grid in grids.values()]


def _composed(overrides: Sequence[str]) -> DictConfig:
    overrides = [_LIST.sub(r"\1'\2'", item) for item in overrides]
    _check_obeyed(overrides, _OBEYED[:1])
    for item, override in zip(overrides, _parsed(overrides), strict=True):
        if override.is_sweep_override():
            raise ConfigurationError(
                f"{shown(item)}: several values; run -m makes a job of each, and a list or a text "
                "with commas needs brackets or quotes."
            )
    try:
        config = _merged(overrides)
    except _ERRORS as error:
        raise ConfigurationError(_explained(error, overrides)) from None
    _resolve(config)
    return config


_ERRORS = (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError)


def _merged(overrides: Sequence[str]) -> DictConfig:
    """The configuration of some overrides with Hydra's part, nothing in it resolved."""
    with hydra.initialize_config_module(
        CONFIG_MODULE, version_base=HYDRA_VERSION, job_name="userdp"
    ):
        return hydra.compose("config", overrides=list(overrides), return_hydra_config=True)


def _resolve(config: DictConfig) -> None:
    """Resolve all values, of which some may ask Hydra (``${hydra:job.name}``), and drop its part.

    Raises:
        ConfigurationError: names the first value that cannot be resolved.
    """
    with open_dict(config):
        config.hydra.runtime.cwd = config.hydra.runtime.output_dir = os.getcwd()
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = config.copy()  # type: ignore[assignment]
    try:
        with open_dict(config):
            config.pop("hydra")
        interpolation.resolve(config)
    finally:
        HydraConfig.instance().cfg = before


def _explained(error: Exception, overrides: Sequence[str]) -> str:
    """One line about an error of Hydra, which names the override where Hydra does not."""
    if known := _unknown_key(error, overrides):
        return known
    reason = printable(_one_line(error))
    right, wrong = 0, len(overrides)  # composing is slow, so the first wrong one is searched for
    while wrong - right > 1:
        middle = (right + wrong) // 2
        try:
            _merged(overrides[:middle])
            right = middle
        except _ERRORS:
            wrong = middle
    item = overrides[wrong - 1] if overrides else ""
    return reason if item.partition("=")[0] in reason else f"{shown(item)}: {reason}"


def _check_obeyed(overrides: Sequence[str], obeyed: Sequence[str]) -> None:
    """Refuse overrides of Hydra that would change nothing here.

    Raises:
        ConfigurationError: names the first one.
    """
    for item in overrides:
        key = item.lstrip("+~").partition("=")[0]
        if not re.match(r"hydra([./@]|$)", key):
            continue
        if not any(re.match(rf"{re.escape(name)}([./@]|$)", key) for name in obeyed):
            raise ConfigurationError(
                f"{shown(item)}: not obeyed here; the folder of a run or a sweep is output=FOLDER, "
                "and Hydra's launcher and its options serve run -m alone."
            )


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides, parsed one by one, since the parser's message does not name the override."""
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
            f"{shown(item)}: is not of the form name=value; special characters need quotes, "
            f"'name=\"value\"'."
        )
    return parsed


def _unknown_key(error: Exception, overrides: Sequence[str]) -> str | None:
    """The message for a key that the configuration does not have; None for any other error."""
    match = re.match(r"Could not override '([^']+)'", str(error))
    if match is None:
        return None
    items = [item for item in overrides if item.startswith(f"{match[1]}=")]
    return f"{(items or [match[1]])[0]}: no such key; leave it out, or look for its name in conf."


def _one_line(error: Exception) -> str:
    text = str(error).split("Config search path")[0].split("Set the environment")[0]
    return " ".join(text.split())
