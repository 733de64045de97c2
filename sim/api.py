"""userdp from Python: what the commands do, and what runs leave behind as data frames.

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
    """A checked configuration, and its values as a run folder keeps them."""

    settings: Settings
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A complete run, read from its folder."""

    folder: Path

    @functools.cached_property
    def files(self) -> reader.Run:
        """The contents of its folder, as reports read them.

        Raises:
            ConfigurationError: a file cannot be read.
        """
        [run] = reader.read(self.folder)
        if not run.statement:
            raise ConfigurationError(f"{self.folder}: {run.why}.")
        return run

    @property
    def statement(self) -> Mapping[str, Any]:
        """The privacy statement: epsilon, delta, what is covered and what is not."""
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
        """The metrics, a row a round; round 0 is the base model. `metric_kinds` has the keys."""
        import pandas as pd

        rows: dict[int, dict[str, Any]] = {}
        for values in self.files.rows:
            rows.setdefault(values["round"], {}).update(values)  # a resumed run scores twice
        return pd.DataFrame(list(rows.values())).set_index("round")

    @property
    def summary(self) -> Mapping[str, Any]:
        """The figures of the whole run, held-out scores before and after among them."""
        return self.files.summary


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The complete runs of a sweep's folder, and why the others are not complete."""

    folder: Path
    runs: tuple[Run, ...]
    failures: Mapping[str, str]  # the reason of each failed job, by its folder's name

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """A row a run, by the number of its folder: the values in which runs differ, the summary.

        ``epsilon`` and ``delta`` are the run's own claim; the sweep as a whole costs `spending`.
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
        """What all rounds of the folder's ledgers cost together."""
        from userdp.sim.run_folder import composed_epsilon

        third_party.accountants()
        return composed_epsilon.of_sweep(self.folder)


def compose(*overrides: str) -> Configuration:
    """The configuration that these overrides make, as on the command line.

    Raises:
        ConfigurationError: one line on what is wrong.
    """
    from userdp.sim.config import hydra_compose, validation

    settings, config = hydra_compose.settings(overrides)
    return Configuration(settings=settings, values=validation.resolved(config))


def run(*overrides: str | Configuration) -> Run:
    """Carry out one run, as `userdp run`.

    Args:
        overrides: of the configuration; or one `Configuration`, composed before.

    Raises:
        ConfigurationError: before a round is spent.
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
    """Run the grid of all comma-separated choices, as `userdp run -m`; failures are kept.

    With the ``output=`` of an earlier sweep it goes on with it.

    Raises:
        ConfigurationError: before the first job starts, whichever job is wrong.
    """
    third_party.environment()
    from userdp.analysis.report import wandb_summary
    from userdp.sim.sweep import sweep as sweeps

    return load_sweep(sweeps.run(overrides, afterwards=wandb_summary.log).folder)


def plan(*overrides: str, alternatives: bool = False) -> dict[str, Any]:
    """Noise for a target epsilon, or epsilon for a noise, as `userdp plan --json`; reads no data.

    Args:
        alternatives: also compare strategies at several k, as ``--all`` does.

    Returns:
        Plain values by name; an infinite figure is None.

    Raises:
        ConfigurationError: a setting is wrong, or no noise meets the target.
    """
    third_party.environment()
    third_party.accountants()
    from userdp.sim.planning import alternatives as advice
    from userdp.sim.planning import planner

    settings = compose(*overrides).settings
    made = planner.bare(settings)
    described = planner.described(made, settings)
    return described | advice.advice(made, settings, alternatives=alternatives)


def verify(folder: str | Path) -> Verified:
    """Recompute the claim of a run from its ledger alone, as `userdp verify`.

    Raises:
        ConfigurationError: there is no such run, its ledger was changed, or its statement makes
            another claim than the ledger does.
    """
    third_party.accountants()
    from userdp.sim.run import verify as verification

    return verification.verify(Path(folder))


def report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write one HTML page about a run or a sweep, as `userdp report`; returns the page's path.

    Args:
        output: folder for the page and its figures; None: ``report`` below ``folder``.

    Raises:
        ConfigurationError: no run is there, or a file of one cannot be read.
    """
    third_party.accountants()
    from userdp.analysis.report import command

    place = Path(folder)
    return command.write(place, Path(output) if output else place / "report")


def load(folder: str | Path) -> Run:
    """A complete run of earlier.

    Raises:
        ConfigurationError: no complete run is there.
    """
    if not RunFolder(Path(folder)).complete:
        raise ConfigurationError(f"{folder}: no complete run is there; go on with resume={folder}.")
    return Run(Path(folder))


def load_sweep(folder: str | Path) -> Sweep:
    """The complete runs of an earlier sweep, or of one that is still at work.

    Raises:
        ConfigurationError: no sweep is there.
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
