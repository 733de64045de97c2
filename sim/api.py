"""The Python interface of userdp: the commands as functions, and results as data frames.

`import userdp` offers these functions. Importing this module is quick; torch and other libraries
are imported by the functions that need them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run_folder import config_diff, reader
from userdp.sim.run_folder.layout import RunFolder, SweepFolder

if TYPE_CHECKING:
    import pandas as pd

    from userdp.sim.config.settings import Settings
    from userdp.sim.run.verify import Verified
    from userdp.sim.run_folder.composed_epsilon import Spending


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A checked configuration."""

    settings: Settings
    values: Mapping[str, Any]  # nested plain values, as a run folder stores them


@dataclass(frozen=True)
class Run:
    """A complete run, read from its folder."""

    folder: Path

    @functools.cached_property
    def files(self) -> reader.Run:
        """The contents of the run folder.

        Raises:
            ConfigurationError: a file is missing or cannot be read.
        """
        [run] = reader.read(self.folder)
        if not run.statement:
            raise ConfigurationError(f"{self.folder}: {run.why}.")
        return run

    @property
    def statement(self) -> Mapping[str, Any]:
        """The privacy statement: epsilon, delta, assumptions, what is covered and what is not."""
        return self.files.statement

    @property
    def adapter_path(self) -> Path:
        """The folder that `peft.PeftModel.from_pretrained` loads."""
        return RunFolder(self.folder).adapter

    @property
    def configuration(self) -> Mapping[str, Any]:
        """Every value of the configuration by its dotted name."""
        return self.files.config

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """The metrics by round; round 0 is the base model.

        `userdp.sim.tracking.metric_kinds.METRICS` describes the columns.
        """
        import pandas as pd

        rows: dict[int, dict[str, Any]] = {}
        for values in self.files.rows:
            rows.setdefault(values["round"], {}).update(values)  # a round may have several rows
        return pd.DataFrame(list(rows.values())).set_index("round")

    @property
    def summary(self) -> Mapping[str, Any]:
        """The figures of the whole run, including the held-out scores before and after."""
        return self.files.summary


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The complete runs of a sweep, and why jobs failed."""

    folder: Path
    runs: tuple[Run, ...]
    failures: Mapping[str, str]  # reason of each failed job, by its folder's name

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """One row for each run: the values in which runs differ, and the summary.

        The index is the name of the run's folder. ``epsilon`` and ``delta`` are the claim of the
        single run; `spending` has that of the whole sweep.
        """
        import pandas as pd

        choices = config_diff.keys([run.files for run in self.runs])
        return pd.DataFrame(
            [
                {name: run.configuration.get(name) for name in choices}
                | dict(run.summary)
                | {"private": run.files.private, "folder": str(run.folder)}
                for run in self.runs
            ],
            index=pd.Index([run.folder.name for run in self.runs], name="job"),
        )

    @functools.cached_property
    def spending(self) -> Spending:
        """The epsilon of all runs of the sweep together, from their ledgers.

        Raises:
            FileNotFoundError: there is no ledger.
            ValueError: a ledger is damaged.
        """
        from userdp.sim.run_folder import composed_epsilon

        third_party.accountants()
        return composed_epsilon.of_sweep(self.folder)


def compose(*overrides: str) -> Configuration:
    """Compose and check a configuration.

    Args:
        overrides: as on the command line, for example ``"privacy.epsilon=3"``.

    Raises:
        ConfigurationError: an override or a value is not valid.
    """
    from userdp.sim.config import hydra_compose, validation

    settings, config = hydra_compose.settings(overrides)
    return Configuration(settings=settings, values=validation.resolved(config))


def run(*overrides: str | Configuration) -> Run:
    """Carry out one run, as ``userdp run``.

    Args:
        overrides: of the configuration; or one `Configuration`, which `compose` returned.

    Raises:
        ConfigurationError: the run cannot start; no round is spent.
        StoppedError: a node failed twice; the run can be resumed.
    """
    third_party.environment()
    texts = [item for item in overrides if isinstance(item, str)]
    composed = [item for item in overrides if isinstance(item, Configuration)]
    if composed and len(overrides) > 1:
        raise ConfigurationError("run: give overrides, or one configuration, not both.")
    [configuration] = composed or [compose(*texts)]
    from userdp.sim.run import runner

    return Run(runner.run(configuration.settings, configuration.values).folder)


def sweep(*overrides: str) -> Sweep:
    """Run the grid of all comma-separated choices, as ``userdp run -m``.

    With the ``output=`` of an earlier sweep, that sweep is resumed. Failed jobs raise no error:
    they are in `Sweep.failures`.

    Args:
        overrides: of the configuration; ``output=FOLDER`` names the folder of the sweep.

    Raises:
        ConfigurationError: the settings of a job are not valid; no job has started.
    """
    third_party.environment()
    from userdp.analysis.report import wandb_summary
    from userdp.sim.sweep.sweep import run as run_sweep

    return load_sweep(run_sweep(overrides, afterwards=wandb_summary.log).folder)


def plan(*overrides: str, alternatives: bool = False) -> dict[str, Any]:
    """Noise for a target epsilon, or epsilon for a noise, as ``userdp plan --json``.

    It reads no data.

    Args:
        overrides: of the configuration.
        alternatives: also compare strategies at several k, as ``--all`` does.

    Returns:
        Plain values by name; infinity is None.

    Raises:
        ConfigurationError: a setting is wrong, or no noise meets the target.
    """
    third_party.environment()
    third_party.accountants()
    from userdp.sim.planning import planner
    from userdp.sim.planning.alternatives import advice

    settings = compose(*overrides).settings
    planned = planner.bare(settings)
    described = planner.described(planned, settings)
    return described | advice(planned, settings, alternatives=alternatives)


def verify(folder: str | Path, head: str | None = None) -> Verified:
    """Recompute the claim of a run and compare all that it wrote, as ``userdp verify``.

    Args:
        folder: of the run.
        head: of the run's ledger, as it was noted at some time; None: none was noted.

    Raises:
        ConfigurationError: there is no such run, its ledger was changed or lacks ``head``, or other
            evidence in the folder contradicts it.
    """
    third_party.accountants()
    from userdp.sim.run.verify import verify as verify_run

    return verify_run(Path(folder), head)


def audit(*overrides: str) -> dict[str, Any]:
    """Measure a mechanism with canary users beside its claim, as ``userdp audit --json``.

    All users are invented; no records are read.

    Args:
        overrides: of the configuration, and ``audit.NAME=VALUE``; or one run folder, in which the
            outcome is then stored.

    Returns:
        Plain values by name; ``broken`` says whether a finding contradicts the claim.

    Raises:
        ConfigurationError: a setting is wrong, there is no such run, or nothing is claimed.
    """
    third_party.environment()
    third_party.accountants()
    from userdp.analysis.audit import command

    return command.measure(overrides)


def report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write one HTML page about a run or a sweep, as ``userdp report``.

    Args:
        folder: of the run or the sweep.
        output: folder for the page and its figures; None: ``report`` below ``folder``.

    Returns:
        The path of the page.

    Raises:
        ConfigurationError: the folder has no run, or a file of one cannot be read.
    """
    third_party.accountants()
    from userdp.analysis.report import command

    place = Path(folder)
    return command.write(place, Path(output) if output else place / "report")


def load(folder: str | Path) -> Run:
    """Read a complete run from its folder.

    Raises:
        ConfigurationError: the folder has no complete run.
    """
    if not RunFolder(Path(folder)).complete:
        raise ConfigurationError(
            f"{folder}: no complete run is there; resume it with resume={folder}."
        )
    return Run(Path(folder))


def load_sweep(folder: str | Path) -> Sweep:
    """Read the complete runs of a sweep, which may still be running.

    Raises:
        ConfigurationError: the folder has no sweep.
    """
    from userdp.sim.sweep import jobs

    place = SweepFolder(Path(folder))
    if not place.index.is_file():
        raise ConfigurationError(
            f"{folder}: no sweep is there; name the folder that holds its jobs."
        )
    folders = [RunFolder(place.path / name) for name in jobs.job_choices(place)]
    reasons = {one.path.name: jobs.failure_reason(one) for one in folders}
    return Sweep(
        folder=place.path,
        runs=tuple(Run(one.path) for one in folders if one.complete),
        failures={name: reason for name, reason in reasons.items() if reason is not None},
    )
