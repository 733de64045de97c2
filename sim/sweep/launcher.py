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
    """Call ``task`` once for each number, with a configuration whose ``job`` is the number.

    It is Hydra's multirun, with jobs that differ in their number alone.

    Args:
        task: must not raise errors, and must be importable by name if other processes run it.
        numbers: of the jobs.
        folder: of the sweep.
        overrides: of the command; those of Hydra and the experiment are passed on.

    Returns:
        What ``task`` returned, in the order of the numbers.

    Raises:
        RuntimeError: Hydra is not initialised.
    """
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    place = [f"hydra.sweep.dir='{quoted}'", "hydra.sweep.subdir=.", "hydra.sweeper.params=null"]
    named = hydra_compose.hydra_overrides(overrides)
    # Hydra composes a configuration twice for each job; only an experiment needs ours in it.
    config_name = "config" if any("experiment=" in item for item in named) else None
    arguments = [*named, *_NO_LOGGING, *place, f"+job={','.join(map(str, numbers))}"]
    with hydra.initialize_config_module(
        hydra_compose.CONFIG_MODULE,
        version_base=hydra_compose.HYDRA_VERSION,
        job_name="userdp",
    ):
        hydra_instance = GlobalHydra.instance().hydra
        if hydra_instance is None:
            raise RuntimeError("Hydra is not initialised.")
        batches = hydra_instance.multirun(config_name, task, arguments)
    return [job.return_value for batch in batches for job in batch]


def runs_in_process(overrides: Sequence[str]) -> bool:
    """Whether the jobs run in this process, by Hydra's basic launcher."""
    config = hydra_compose.hydra_config(overrides)
    target = None if config is None else OmegaConf.select(config, "hydra.launcher._target_")
    return target is None or str(target).endswith(".BasicLauncher")
