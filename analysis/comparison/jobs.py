"""The single runs that a comparison consists of; composes their settings and runs none of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from omegaconf import DictConfig, OmegaConf

from userdp.analysis.comparison import ranking
from userdp.analysis.comparison.ranking import Cell
from userdp.server.mechanisms import registry
from userdp.server.mechanisms.base import RECORD_SLOT
from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose, interpolation, refusal, validation
from userdp.sim.config.field_types import Closed, Code, Flag, Real, Seed
from userdp.sim.config.settings import EPSILONS, Settings
from userdp.sim.run.prepare import LoadInputs
from userdp.sim.sweep import shared_inputs

_SET_BY_COMPARE = (
    *("strategy", "selection", "seed", "resume"),
    *("privacy.epsilon", "privacy.noise_multiplier"),
)


@dataclass
class Comparison(Closed):
    """What is compared: the block ``compare`` of conf/experiment/selections.yaml."""

    strategies: list[Code]
    selections: list[Code]
    epsilons: list[
        Annotated[Real, Between(*EPSILONS)]
    ]  # all selections at the first; the best of each strategy at the others
    seeds: list[Seed]
    resample: list[Flag]  # for mechanisms that clip record slots: whether empty slots are refilled
    clip_norm: dict[Code, Annotated[Real, Between(1e-9, 1e9)] | None] = field(
        default_factory=dict
    )  # by strategy


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A strategy, with the options of it that are compared."""

    strategy: str
    resample: bool | None = None  # None for mechanisms without record slots

    @property
    def label(self) -> str:
        """The strategy as the table shows it."""
        return f"{self.strategy} (resample=false)" if self.resample is False else self.strategy


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    strategy: str
    resample: bool | None  # as in Variant
    selection: str
    epsilon: float
    seed: int

    @property
    def label(self) -> str:
        """The strategy as the table shows it."""
        return Variant(strategy=self.strategy, resample=self.resample).label

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        unfilled = "-unfilled" if self.resample is False else ""
        return f"{self.strategy}{unfilled}-{self.selection}-eps{self.epsilon:g}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all jobs have in common."""

    comparison: Comparison
    variants: tuple[Variant, ...]
    overrides: tuple[str, ...]
    folder: Path
    load: LoadInputs

    def settings(self, job: Job) -> tuple[Settings, Mapping[str, Any]]:
        """A run's settings, and its configuration as the run folder stores it.

        Raises:
            ConfigurationError: the run cannot be composed.
        """
        clip = self.comparison.clip_norm.get(job.strategy)
        overrides = [
            *(f"strategy={job.strategy}", f"selection={job.selection}", f"seed={job.seed}"),
            *(f"privacy.epsilon={job.epsilon}", f"sweep={self.folder}"),
            f"output={self.folder / job.name}",
            *([] if job.resample is None else [f"strategy.resample={str(job.resample).lower()}"]),
            *([] if clip is None else [f"strategy.clip_norm={clip}"]),
        ]
        config, _ = _composed([*self.overrides, *overrides])
        return validation.parse(config), validation.resolved(config)


def setup(overrides: Sequence[str]) -> Setup:
    """The comparison that the command line describes.

    Args:
        overrides: Hydra overrides; those that start with ``compare.`` say what is compared.

    Raises:
        ConfigurationError: an override that compare sets itself, an unknown strategy, an invalid
            list, or a task without perplexity.
    """
    for item in overrides:
        if item.partition("=")[0] in _SET_BY_COMPARE:
            raise ConfigurationError(
                f"{item}: compare sets it for each run; name what to compare by "
                "compare.strategies, .selections, .epsilons and .seeds."
            )
    config, block = _composed(overrides)
    if config.data.get("label") is not None:
        raise ConfigurationError(
            f"data.label={config.data.label}: compare ranks by perplexity, which a classification "
            "has not; sweep it by userdp run -m."
        )
    comparison = _comparison(block)
    run_overrides = tuple(item for item in overrides if not item.startswith("output="))
    return Setup(
        comparison=comparison,
        variants=_variants(comparison, run_overrides),
        overrides=run_overrides,
        folder=Path(config.output),
        load=shared_inputs.SharedInputs().load,
    )


def _composed(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig | None]:
    return hydra_compose.experiment("selections", "compare", overrides)


def _comparison(block: DictConfig | None) -> Comparison:
    if not OmegaConf.is_dict(block):
        raise ConfigurationError(f"compare={block}: expected the keys of {Comparison.__name__}.")
    values = interpolation.plain(cast(DictConfig, block))
    comparison = refusal.checked(Comparison, values, "compare.")
    for name, values in vars(comparison).items():
        if isinstance(values, list) and (not values or len(set(values)) < len(values)):
            raise ConfigurationError(f"compare.{name}={values}: expected different values.")
    return comparison


def _variants(comparison: Comparison, overrides: Sequence[str]) -> tuple[Variant, ...]:
    """Each strategy; where its mechanism clips record slots, once for each value of resample."""
    variants = []
    for strategy in comparison.strategies:
        config, _ = _composed([*overrides, f"strategy={strategy}"])
        slots = registry.find(config.strategy.name).unit == RECORD_SLOT
        choices: Sequence[bool | None] = comparison.resample if slots else [None]
        variants += [Variant(strategy=strategy, resample=choice) for choice in choices]
    return tuple(variants)


def grid(
    comparison: Comparison,
    variants: Sequence[Variant],
    selections: Sequence[str],
    epsilons: Sequence[float],
) -> list[Job]:
    """All combinations, seed by seed: runs of one initial adapter then share the loaded model."""
    return [
        Job(
            strategy=variant.strategy,
            resample=variant.resample,
            selection=selection,
            epsilon=epsilon,
            seed=seed,
        )
        for seed, epsilon, variant, selection in itertools.product(
            comparison.seeds, epsilons, variants, selections
        )
    ]


def winners(
    comparison: Comparison, variants: Sequence[Variant], cells: Sequence[Cell]
) -> list[Job]:
    """Each strategy's best variant and selection at the first epsilon, at every other epsilon.

    Args:
        cells: the results at the first epsilon.
    """
    jobs = []
    for strategy in comparison.strategies:
        labels = {variant.label: variant for variant in variants if variant.strategy == strategy}
        winner = ranking.best(
            [cell for cell in cells if cell.strategy in labels], comparison.epsilons[0]
        )
        variant = labels[winner.strategy]
        jobs += grid(comparison, [variant], [winner.selection], comparison.epsilons[1:])
    return sorted(jobs, key=lambda job: comparison.seeds.index(job.seed))
