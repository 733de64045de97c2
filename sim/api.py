"""userdp from Python: what `userdp run` does, and what it leaves as data frames.

>>> from sim import api
>>> result = api.run("rounds=5", "privacy.epsilon=3")            # doctest: +SKIP
>>> result.frame["heldout_perplexity"].dropna()                  # doctest: +SKIP
>>> study = api.sweep("privacy.epsilon=1,8", "seed=1,2")         # doctest: +SKIP
>>> study.frame[["privacy.epsilon", "heldout_perplexity"]]       # doctest: +SKIP

Importing this is quick; torch and the rest are imported by what needs them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run_folder import config_diff
from userdp.sim.run_folder import reader as runs

if TYPE_CHECKING:
    import pandas as pd

    from userdp.sim.config.settings import Settings
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
    def files(self) -> runs.Run:
        """Its folder as reports read it.

        Raises:
            ConfigurationError: a file cannot be read.
        """
        [found] = runs.read(self.folder)
        if not found.statement:
            raise ConfigurationError(f"{self.folder}: {found.why}.")
        return found

    @property
    def statement(self) -> Mapping[str, Any]:
        """The privacy statement: epsilon, delta, what is covered and what is not."""
        return self.files.statement

    @property
    def adapter_path(self) -> Path:
        """What `peft.PeftModel.from_pretrained` loads."""
        return self.folder / "adapter"

    @property
    def configuration(self) -> Mapping[str, Any]:
        """Every value of the configuration by its dotted name."""
        return self.files.config

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """What was tracked, a row a round; round 0 is the base model. Keys as `userdp.sim.tracking.metric_kinds`."""
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
    """The runs of a sweep's folder that are complete, and why the others are not."""

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
        from userdp.sim.run_folder import composed_epsilon as spending

        third_party.accountants()
        return spending.of_sweep(self.folder)


def compose(*overrides: str) -> Configuration:
    """The configuration that these overrides make, as on the command line.

    Raises:
        ConfigurationError: one line on what is wrong.
    """
    from userdp.sim.config import hydra_compose as composer
    from userdp.sim.config import validation

    settings, config = composer.settings(overrides)
    return Configuration(settings=settings, values=validation.resolved(config))


def run(*asked: str | Configuration) -> Run:
    """Carry out one run: of overrides, or of one configuration that was composed before.

    Raises:
        ConfigurationError: before a round is spent.
        StoppedError: a node failed twice; the run can be resumed.
    """
    third_party.environment()
    overrides = [item for item in asked if isinstance(item, str)]
    composed = [item for item in asked if isinstance(item, Configuration)]
    if composed and len(asked) > 1:
        raise ConfigurationError("run: give overrides, or one configuration, not both.")
    [configuration] = composed or [compose(*overrides)]
    from userdp.sim.run import runner

    return Run(runner.run(configuration.settings, configuration.values).folder)


def sweep(*overrides: str) -> Sweep:
    """Carry out the grid of all comma-separated choices, as `userdp run -m`; failures are kept.

    With the ``output=`` of an earlier sweep it goes on with it.

    Raises:
        ConfigurationError: before the first job starts, whichever job is wrong.
    """
    third_party.environment()
    from userdp.sim.sweep import sweep as sweeper

    return load_sweep(sweeper.carry_out(overrides).folder)


def load(folder: str | Path) -> Run:
    """A complete run of earlier.

    Raises:
        ConfigurationError: no complete run is there.
    """
    from userdp.sim.sweep import jobs

    if not jobs.complete(Path(folder)):
        raise ConfigurationError(f"{folder}: no complete run is there; go on with resume={folder}.")
    return Run(Path(folder))


def load_sweep(folder: str | Path) -> Sweep:
    """What is complete of an earlier sweep, or of one that is still at work.

    Raises:
        ConfigurationError: no sweep is there.
    """
    from userdp.sim.sweep import jobs

    place = Path(folder)
    if not (place / jobs.INDEX).is_file():
        raise ConfigurationError(
            f"{folder}: no sweep is there; name the folder that holds its jobs."
        )
    names = json.loads((place / jobs.INDEX).read_text())["jobs"]
    every = [place / name for name in names]
    reasons = {one.name: jobs.reason(one) for one in every}
    return Sweep(
        folder=place,
        runs=tuple(Run(one) for one in every if jobs.complete(one)),
        failures={name: reason for name, reason in reasons.items() if reason is not None},
    )
