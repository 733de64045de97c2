"""What `userdp compare` was asked for, as single runs; carries out none of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from userdp.analysis.comparison import ranking
from userdp.analysis.comparison.ranking import Cell
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose, validation
from userdp.sim.config.settings import Settings
from userdp.sim.run.prepare import LoadWorld
from userdp.sim.sweep import shared_inputs

_OURS = ("strategy", "selection", "seed", "privacy.epsilon", "privacy.noise_multiplier", "resume")


@dataclass
class Comparison:
    """What is compared: the block ``compare`` of conf/experiment/selections.yaml."""

    strategies: list[str]
    selections: list[str]
    epsilons: list[float]  # all selections at the first; the best of each strategy at the others
    seeds: list[int]
    resample: list[bool]  # Group Privacy only
    clip_norm: dict[str, float | None] = field(default_factory=dict)  # by strategy


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    strategy: str
    resample: bool | None  # None where it has no meaning
    selection: str
    epsilon: float
    seed: int

    @property
    def label(self) -> str:
        """Of the strategy, as the table shows it."""
        return f"{self.strategy} (resample=false)" if self.resample is False else self.strategy

    @property
    def name(self) -> str:
        """Of the run's folder."""
        unfilled = "-unfilled" if self.resample is False else ""
        return f"{self.strategy}{unfilled}-{self.selection}-eps{self.epsilon:g}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all jobs have in common."""

    asked: Comparison
    overrides: tuple[str, ...]
    folder: Path
    load: LoadWorld

    def settings(self, job: Job) -> tuple[Settings, Mapping[str, Any]]:
        """A run's settings and its configuration as it is stored."""
        clip = self.asked.clip_norm.get(job.strategy)
        own = [
            *(f"strategy={job.strategy}", f"selection={job.selection}", f"seed={job.seed}"),
            *(f"privacy.epsilon={job.epsilon}", f"sweep={self.folder}"),
            f"output={self.folder / job.name}",
            *([] if job.resample is None else [f"strategy.resample={str(job.resample).lower()}"]),
            *([] if clip is None else [f"strategy.clip_norm={clip}"]),
        ]
        config, _ = hydra_compose.experiment("selections", "compare", [*self.overrides, *own])
        return validation.parse(config), validation.resolved(config)


def setup(overrides: list[str]) -> Setup:
    for item in overrides:
        if item.partition("=")[0] in _OURS:
            raise ConfigurationError(
                f"{item}: compare sets it for each run; name what to compare by "
                "compare.strategies, .selections, .epsilons and .seeds."
            )
    config, block = hydra_compose.experiment("selections", "compare", overrides)
    if config.data.get("label") is not None:
        raise ConfigurationError(
            f"data.label={config.data.label}: compare ranks by perplexity, which a classification "
            "has not; sweep it by userdp run -m."
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Comparison), block)
        asked = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"compare: {str(error).splitlines()[0]}") from None
    if not isinstance(asked, Comparison):
        raise ConfigurationError(f"compare={block}: expected the keys of {Comparison.__name__}.")
    _check_lists(asked)
    return Setup(
        asked=asked,
        overrides=tuple(item for item in overrides if not item.startswith("output=")),
        folder=Path(config.output),
        load=shared_inputs.Worlds(),
    )


def _check_lists(asked: Comparison) -> None:
    for name, values in vars(asked).items():
        if isinstance(values, list) and (not values or len(set(values)) < len(values)):
            raise ConfigurationError(f"compare.{name}={values}: expected different values.")


def grid(asked: Comparison, selections: Sequence[str], epsilons: Sequence[float]) -> list[Job]:
    """Seed by seed, so that runs of one initial adapter share the loaded model."""
    variants = [
        (strategy, resample)
        for strategy in asked.strategies
        for resample in (asked.resample if strategy == "group_privacy" else [None])
    ]
    return [
        Job(strategy=name, resample=fill, selection=selection, epsilon=epsilon, seed=seed)
        for seed, epsilon, (name, fill), selection in itertools.product(
            asked.seeds, epsilons, variants, selections
        )
    ]


def winners(asked: Comparison, cells: Sequence[Cell]) -> list[Job]:
    """Each strategy's best cell at the first epsilon, at every other epsilon."""
    jobs = []
    for strategy in asked.strategies:
        own = [cell for cell in cells if cell.strategy.partition(" ")[0] == strategy]
        winner = ranking.best(own, asked.epsilons[0])
        later = grid(asked, [winner.selection], asked.epsilons[1:])
        jobs += [job for job in later if job.label == winner.strategy]
    return sorted(jobs, key=lambda job: asked.seeds.index(job.seed))
