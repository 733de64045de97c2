"""What a command does with its folder: it begins a run there, or goes on with the one in it.

A run has begun once the first line of its ledger is on disk. A kill before leaves a folder without
a run, in which nothing was released; both the first command and ``resume=FOLDER`` begin it then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from userdp.server.ledger import ledger
from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.foreign_code import CodeNotLoadedError
from userdp.sim.config import stored_config
from userdp.sim.config.settings import Settings
from userdp.sim.run_folder.layout import RunFolder

_LOG = logging.getLogger("userdp")


def settled(settings: Settings) -> Settings:
    """The settings with ``resume`` and ``output`` as the state of the folder asks for.

    - ``resume=FOLDER`` begins the run of which a kill left the configuration alone.
    - ``output=FOLDER`` goes on with a run that has lost its configuration: by a power cut under an
      older version, or by hand. The ledger's header holds it to the values it began with.
    """
    folder = RunFolder(settings.folder)
    begun = ledger.begun(folder.ledger)
    if settings.resume is not None and not begun and not folder.released:
        return replace(settings, resume=None, output=settings.resume)
    if settings.resume is None and begun and not has_config(folder):
        _LOG.warning(
            "output=%s: it holds a run whose %s is gone or damaged; this command goes on with it.",
            folder.path,
            folder.config.name,
        )
        return replace(settings, resume=str(folder.path))
    return settings


def has_config(folder: RunFolder) -> bool:
    """Whether the folder has a configuration that can be read, whoever's code it names."""
    try:
        stored_config.stored(folder)
    except CodeNotLoadedError:
        return True
    except ConfigurationError:
        return False
    return True


def write_config(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """Write the configuration as that of a run which began in this folder."""
    began = {**config, "resume": None, "output": str(folder.path)}
    text = OmegaConf.to_yaml(OmegaConf.create(began))
    durable_file.replace(folder.config, text.encode(errors="backslashreplace"))
