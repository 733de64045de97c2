"""The settings of a run, typed and checked; importing them is quick and does not import Hydra.

Every error names the field, its value, and what to change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from userdp.server.accounting import accountants
from userdp.server.mechanisms import noise_grid
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import optimizer
from userdp.sim.config.data import Data
from userdp.sim.config.field_types import Closed, Count, Number, Place, Quantity, Whole
from userdp.sim.config.strategy import Strategy, gather_options
from userdp.sim.data import selection
from userdp.sim.runtime.registry import RUNTIMES


@dataclass(frozen=True, kw_only=True)
class Lora(Closed):
    """The group ``model.lora``: rank, scaling and target modules of the adapter."""

    r: Whole
    alpha: Number
    targets: str | tuple[str, ...]
    freeze_a: bool = False


@dataclass(frozen=True, kw_only=True)
class Model(Closed):
    """The group ``model``: the base model, its precision and its longest sequence.

    Raises:
        ConfigurationError: sequences are too short to predict a token.
    """

    kind: Literal["embedded", "local", "hub"]
    path: Place | None = None
    revision: Place | None = None
    seq_len: Whole
    dtype: Literal["auto", "float32", "bfloat16"]
    lora: Lora

    def __post_init__(self) -> None:
        if self.seq_len < 2:
            raise ConfigurationError(f"model.seq_len={self.seq_len}: must be at least 2 tokens.")


@dataclass(frozen=True, kw_only=True)
class Selection(Closed):
    """The group ``selection``: which of a user's records are trained on.

    Raises:
        ConfigurationError: there is no such rule.
    """

    rule: str  # of `userdp.sim.data.selection.RULES`, or a dotted name

    def __post_init__(self) -> None:
        selection.RULES.find(self.rule)


@dataclass(frozen=True, kw_only=True)
class Schedule(Closed):
    """The group ``schedule``: the server's learning rate over the rounds."""

    name: str
    warmup: Whole  # rounds
    average: Number = 0.0  # decay of the average of adapters that is scored


@dataclass(frozen=True, kw_only=True)
class Privacy(Closed):
    """The group ``privacy``: declared users, target epsilon or noise, and how a claim is computed.

    Raises:
        ConfigurationError: a value is out of range, or the accountant is unknown or does not fit.
    """

    users: Whole | None  # N, declared; None: counted, which the claim says
    epsilon: Number | None  # target; exclusive with noise_multiplier
    noise_multiplier: Number | None
    delta: Number | None  # None: 1 / (10 N)
    accountant: str  # of `userdp.server.accounting.accountants.ACCOUNTANTS`, or a dotted name
    edgeworth_order: Literal[1, 2, 3]
    group_bound: Literal["mixture", "lemma"]
    reproducible: bool
    noise: Literal["float", "discrete"] = "float"  # discrete: exact, on a grid

    def __post_init__(self) -> None:
        accountants.claim_version(self.accountant, capped=False)  # a claim will name it
        if not accountants.find(self.accountant).certified and self.group_bound == "lemma":
            raise ConfigurationError(
                f"privacy.group_bound=lemma: accountant={self.accountant} takes mixture only."
            )
        for name in ("users", "epsilon", "noise_multiplier", "delta"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigurationError(f"privacy.{name}={value}: must be positive and finite.")
        if self.delta is not None and self.delta >= 1:
            raise ConfigurationError(f"privacy.delta={self.delta}: must be below 1.")


@dataclass(frozen=True, kw_only=True)
class Engine(Closed):
    """The group ``engine``: speed and memory; results change by float rounding only."""

    max_tokens: Count | Literal["auto"]
    max_lanes: Count | Literal["auto"]
    compile: bool
    checkpointing: bool


@dataclass(frozen=True, kw_only=True)
class Runtime(Closed):
    """The group ``runtime``: the nodes of the federation.

    Raises:
        ConfigurationError: there is no node, no time to answer, or no such runtime; or nodes that
            are late would be dropped.
    """

    nodes: Whole
    drop_failed_nodes: bool
    timeout: Number | None = None  # seconds in which a round's nodes have to answer; None: no limit
    options: dict[str, Any] = field(default_factory=dict)  # of a runtime outside userdp
    kind: str = "in_process"  # of `userdp.sim.runtime.registry.RUNTIMES`, or a dotted name

    def __post_init__(self) -> None:
        RUNTIMES.check(self.kind)
        if self.nodes < 1:
            raise ConfigurationError(f"runtime.nodes={self.nodes}: must be at least 1.")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ConfigurationError(
                f"runtime.timeout={self.timeout:g}: must be positive and finite seconds, or null."
            )
        if self.timeout is not None and self.drop_failed_nodes:
            raise ConfigurationError(
                f"runtime.timeout={self.timeout:g}: with runtime.drop_failed_nodes=true one user's "
                "long records would take all users of a node out of a release, which no clip "
                "bounds; leave out one of the two."
            )


@dataclass(frozen=True, kw_only=True)
class Track(Closed):
    """The group ``track``: where metrics are written, and whether private ones are."""

    sink: Literal["jsonl", "wandb", "tensorboard"]
    simulation_only: bool
    project: str = "userdp"
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan(Closed):
    """The group ``plan``: further inputs of ``userdp plan``.

    Raises:
        ConfigurationError: a value is out of range.
    """

    sampling_rate: Number | None
    records_per_user: tuple[Quantity, ...] | None = None  # quantiles, equally spaced from 0 to 1
    gradients: Quantity | None = None  # G, expected record gradients a round
    ks: tuple[Count, ...] = (1, 2, 5, 10, 20)
    tuning_runs: Count | None = None

    def __post_init__(self) -> None:
        if self.sampling_rate is not None and not 0 < self.sampling_rate <= 1:
            raise ConfigurationError(
                f"plan.sampling_rate={self.sampling_rate}: must be above 0 and at most 1."
            )
        records = self.records_per_user
        if records is not None and (not records or list(records) != sorted(records)):
            raise ConfigurationError(
                f"plan.records_per_user={list(records)}: expected quantiles in ascending order."
            )


@dataclass(frozen=True, kw_only=True)
class Settings(Closed):
    """All settings of a run, by the groups of the configuration.

    Raises:
        ConfigurationError: a value is out of range, or two groups contradict each other.
    """

    data: Data
    model: Model
    selection: Selection
    strategy: Annotated[Strategy, pydantic.BeforeValidator(gather_options)]
    optimizer: Annotated[dict[str, Any], pydantic.BeforeValidator(optimizer.current)]
    schedule: Schedule
    privacy: Privacy
    engine: Engine
    runtime: Runtime
    track: Track
    plan: Plan
    rounds: Whole
    cohort: Number
    eval_every: Whole
    seed: Whole
    device: str
    resume: Place | None
    sweep: Place | None
    output: Place

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigurationError(f"rounds={self.rounds}: must be at least 1.")
        if self.eval_every < 1:
            raise ConfigurationError(f"eval_every={self.eval_every}: must be at least 1.")
        if not 0 < self.cohort < math.inf:
            raise ConfigurationError(f"cohort={self.cohort:g}: must be positive and finite.")
        optimizer.check(self.optimizer)
        self._check_noise()
        if self.data.canaries and not self.track.simulation_only:
            raise ConfigurationError(
                f"data.canaries={self.data.canaries}: invented users are for simulations; set "
                "track.simulation_only=true."
            )
        rule, label = self.selection.rule, self.data.label
        if label is not None and not selection.RULES.find(rule).fits_labels:
            fitting = [name for name in selection.RULES if selection.RULES.find(name).fits_labels]
            raise ConfigurationError(
                f"selection.rule={rule} with data.label={label}: chooses by next tokens or cuts "
                f"across records; choose one of {', '.join(fitting)}."
            )

    def _check_noise(self) -> None:
        epsilon, z = self.privacy.epsilon, self.privacy.noise_multiplier
        offered = noise_grid.is_offered(self.strategy.mechanism)
        if self.privacy.noise == noise_grid.DISCRETE and not offered:
            raise ConfigurationError(
                f"privacy.noise={self.privacy.noise}: strategy={self.strategy.name} cannot round "
                "what it adds noise to; take privacy.noise=float, or another strategy."
            )
        if not self.strategy.mechanism.private:
            if (epsilon, z) != (None, None):
                raise ConfigurationError(
                    f"privacy.epsilon={epsilon}, privacy.noise_multiplier={z}: "
                    f"strategy={self.strategy.name} takes neither; choose a private strategy for "
                    "a target."
                )
        elif (epsilon is None) == (z is None):
            raise ConfigurationError(
                f"privacy.epsilon={epsilon}, privacy.noise_multiplier={z}: give exactly one."
            )

    @property
    def counts_users(self) -> bool:
        """Whether N is neither declared nor public by itself, so that it is counted from data."""
        return self.privacy.users is None and not self.data.generated

    @property
    def code_names(self) -> Mapping[str, str]:
        """The keys of the configuration whose values name code, and these values."""
        return {
            "strategy.name": self.strategy.name,
            "privacy.accountant": self.privacy.accountant,
            "selection.rule": self.selection.rule,
            "data.format": self.data.format,
            "runtime.kind": self.runtime.kind,
            "optimizer.name": self.optimizer["name"],
        }

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.resume or self.output)
