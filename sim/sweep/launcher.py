"""Starts the jobs of a sweep through the Hydra launcher that the overrides name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from userdp.sim.config import hydra_compose

_NO_LOGGING = (
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "hydra.output_subdir=null",
)


def launch(
    task: Callable[[DictConfig], Any],
    numbers: Sequence[int],
    folder: Path,
    overrides: Sequence[str],
) -> list[Any]:
    """Call ``task`` once with each number as ``config.job``; its values in their order.

    This is Hydra's multirun with jobs that differ in their number alone. The task must not raise,
    and must be importable by name where other processes run it.

    Args:
        folder: of the sweep.
        overrides: of the command; those that Hydra itself has are passed on.
    """
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    place = [f"hydra.sweep.dir='{quoted}'", "hydra.sweep.subdir=.", "hydra.sweeper.params=null"]
    named = hydra_compose.hydra_overrides(overrides)
    # Hydra composes its part of the configuration twice a job; ours only an experiment needs.
    config_name = "config" if any("experiment=" in item for item in named) else None
    arguments = [*named, *_NO_LOGGING, *place, f"+job={','.join(map(str, numbers))}"]
    with hydra.initialize_config_module(
        hydra_compose.CONFIG_MODULE,
        version_base=hydra_compose.HYDRA_VERSION,
        job_name="userdp",
    ):
        hydra_instance = GlobalHydra.instance().hydra
        if hydra_instance is None:
            raise RuntimeError("Hydra is not initialized.")
        batches = hydra_instance.multirun(config_name, task, arguments)
    return [job.return_value for batch in batches for job in batch]


def runs_here(overrides: Sequence[str]) -> bool:
    """Whether jobs run in this process, by Hydra's own launcher."""
    config = hydra_compose.hydra_config(overrides)
    target = None if config is None else OmegaConf.select(config, "hydra.launcher._target_")
    return target is None or str(target).endswith(".BasicLauncher")
