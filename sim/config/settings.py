"""The settings of a run, typed and checked; importing them is quick and does not import Hydra.

Every error names the field, its value, and what to change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from userdp.server.accounting import accountants
from userdp.server.mechanisms import noise_grid
from userdp.server.optimizers import schedules
from userdp.sim.common.bounds import LARGEST, Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import optimizer
from userdp.sim.config.data import Data
from userdp.sim.config.field_types import (
    MOST_ROUNDS,
    Choice,
    Closed,
    Code,
    Count,
    Decay,
    Flag,
    Name,
    PathText,
    Positive,
    Quantity,
    Real,
    Rounds,
    Seed,
    Text,
    Users,
    Whole,
)
from userdp.sim.config.strategy import Strategy, gather_options
from userdp.sim.data import selection
from userdp.sim.runtime.registry import RUNTIMES

EPSILONS = (1e-4, 1000.0)  # a target beyond is refused: it needs more noise, or less, than is found
NOISES = (1e-3, 1e6)  # with more or less, epsilon is not found in a reasonable time
LEAST_DELTA = 1e-11  # as small as the certified accountant resolves
_MOST_KS = 50


@dataclass(frozen=True, kw_only=True)
class Lora(Closed):
    """The group ``model.lora``: rank, scaling and target modules of the adapter."""

    r: Annotated[Whole, Between(1, 65536)]
    alpha: Annotated[Real, Between(0, 1e6, above=True)]
    targets: Name | tuple[Name, ...]
    freeze_a: Flag = False

    def __post_init__(self) -> None:
        if isinstance(self.targets, tuple):
            if not self.targets or len(set(self.targets)) < len(self.targets):
                raise ConfigurationError(
                    f"model.lora.targets={list(self.targets)}: name at least one layer, each once."
                )
            return
        try:
            re.compile(self.targets)  # as peft reads it, unless it is all-linear
        except re.error as error:
            raise ConfigurationError(
                f"model.lora.targets={self.targets}: no regular expression ({error}); name the "
                "layers as [q_proj,v_proj], or take all-linear."
            ) from None


@dataclass(frozen=True, kw_only=True)
class Model(Closed):
    """The group ``model``: the base model, its precision and its longest sequence.

    Raises:
        ConfigurationError: a value is out of range.
    """

    kind: Literal["embedded", "local", "hub"]
    path: PathText | None = None
    revision: Name | None = None
    seq_len: Annotated[Whole, Between(2, 1_000_000)]  # a single token predicts nothing
    dtype: Literal["auto", "float32", "bfloat16"]
    lora: Lora
    quantize: Literal["int8", "nf4", "fp8"] | None = None  # of the frozen base's linear layers


@dataclass(frozen=True, kw_only=True)
class Selection(Closed):
    """The group ``selection``: which of a user's records are trained on.

    Raises:
        ConfigurationError: there is no such rule.
    """

    rule: Code  # of `userdp.sim.data.selection.RULES`, or a dotted name

    def __post_init__(self) -> None:
        selection.RULES.find(self.rule)


@dataclass(frozen=True, kw_only=True)
class Schedule(Closed):
    """The group ``schedule``: the server's learning rate over the rounds."""

    name: Choice  # of `userdp.server.optimizers.schedules.SCHEDULES`
    warmup: Annotated[Whole, Between(0, MOST_ROUNDS)]  # rounds
    average: Decay = 0.0  # of the average of adapters that is scored

    def __post_init__(self) -> None:
        schedules.check(self.name)


@dataclass(frozen=True, kw_only=True)
class Privacy(Closed):
    """The group ``privacy``: declared users, target epsilon or noise, and how a claim is computed.

    Raises:
        ConfigurationError: a value is out of range, or the accountant is unknown or does not fit.
    """

    users: Users | None  # N, declared; None: counted, which the claim says
    epsilon: Annotated[Real, Between(*EPSILONS)] | None  # target; exclusive with noise_multiplier
    noise_multiplier: Annotated[Real, Between(*NOISES)] | None
    delta: Annotated[Real, Between(LEAST_DELTA, 1, below=True)] | None  # None: 1 / (10 N)
    accountant: Code  # of `userdp.server.accounting.accountants.ACCOUNTANTS`, or a dotted name
    edgeworth_order: Literal[1, 2, 3]
    group_bound: Literal["mixture", "lemma"]
    reproducible: Flag
    noise: Literal["float", "discrete"] = "float"  # discrete: exact, on a grid

    def __post_init__(self) -> None:
        accountants.claim_version(self.accountant, capped=False)  # a claim will name it
        if not accountants.find(self.accountant).certified and self.group_bound == "lemma":
            raise ConfigurationError(
                f"privacy.group_bound=lemma: accountant={self.accountant} takes mixture only."
            )


@dataclass(frozen=True, kw_only=True)
class Engine(Closed):
    """The group ``engine``: speed and memory; results change by float rounding only."""

    max_tokens: Count | Literal["auto"]
    max_lanes: Annotated[Whole, Between(1, 1_000_000)] | Literal["auto"]
    compile: Flag | Literal["graphs"]
    checkpointing: Flag
    packed: Flag = False  # several records in a row
    loss: Literal["chunked", "liger"] = "chunked"  # of the output head


@dataclass(frozen=True, kw_only=True)
class Runtime(Closed):
    """The group ``runtime``: the nodes of the federation.

    Raises:
        ConfigurationError: there is no such runtime, nodes that are late would be dropped, or sums
            cannot be masked so.
    """

    nodes: Annotated[Whole, Between(1, 1_000_000)]
    drop_failed_nodes: Flag
    timeout: Positive | None = (
        None  # seconds in which a round's nodes have to answer; None: no limit
    )
    patience: Positive = 300.0  # seconds to wait for the nodes of the run before its first round
    options: dict[str, Any] = field(default_factory=dict)  # of a runtime that has some
    secure_sum: Flag = False  # the server reads the sum over all nodes alone
    keys: PathText | None = None  # folder of the nodes' keys; None: fresh ones, for a simulation
    kind: Code = "in_process"  # of `userdp.sim.runtime.registry.RUNTIMES`, or a dotted name

    def __post_init__(self) -> None:
        RUNTIMES.check(self.kind)
        if self.timeout is not None and self.drop_failed_nodes:
            raise ConfigurationError(
                f"runtime.timeout={self.timeout:g}: with runtime.drop_failed_nodes=true one user's "
                "long records would take all users of a node out of a release, which no clip "
                "bounds; leave out one of the two."
            )
        self._check_secure_sum()

    def _check_secure_sum(self) -> None:
        if not self.secure_sum:
            if self.keys is not None:
                raise ConfigurationError(
                    f"runtime.keys={self.keys}: keys mask sums; set runtime.secure_sum=true, or "
                    "leave them out."
                )
            return
        if self.nodes < 2:
            raise ConfigurationError(
                f"runtime.nodes={self.nodes}: the sum over one node is that node's; with "
                "runtime.secure_sum=true take two or more."
            )
        if self.drop_failed_nodes:
            raise ConfigurationError(
                "runtime.drop_failed_nodes=true: masks cancel in the sum over all nodes alone, so "
                "with runtime.secure_sum=true none can be left out; set it to false."
            )


@dataclass(frozen=True, kw_only=True)
class Track(Closed):
    """The group ``track``: where metrics are written, and whether private ones are."""

    sink: Literal["jsonl", "wandb", "tensorboard"]
    simulation_only: Flag
    project: Name = "userdp"
    group: Name | None = None


@dataclass(frozen=True, kw_only=True)
class Samples(Closed):
    """The group ``samples``: texts that a run writes at its end, after public prompts.

    Raises:
        ConfigurationError: a prompt is there twice.
    """

    prompts: tuple[Text, ...] = ()  # none: the beginning of a text
    count: Annotated[Whole, Between(0, 100)] = 3  # 0: no texts
    tokens: Annotated[Whole, Between(1, 10_000)] = 40  # of a text, at most
    temperature: Annotated[Real, Between(0, 100)] = 0.8  # 0: the likeliest token
    top_p: Annotated[Real, Between(0, 1, above=True)] = 0.95

    def __post_init__(self) -> None:
        if len(set(self.prompts)) < len(self.prompts):
            raise ConfigurationError("samples.prompts: a prompt is there twice; name each once.")


@dataclass(frozen=True, kw_only=True)
class Rouge(Closed):
    """The group ``rouge``: answers to held-out prompts that are compared with people's answers."""

    records: Annotated[Whole, Between(0, 100_000)] = 0  # held-out records; 0: not scored
    tokens: Annotated[Whole, Between(1, 10_000)] = 128  # of an answer, at most


@dataclass(frozen=True, kw_only=True)
class Card(Closed):
    """The group ``card``: what the model card says of itself beyond what a run knows."""

    license: Name | None = None  # None: the base model's, where its folder tells it
    language: tuple[Name, ...] = ()  # codes, for example en
    datasets: tuple[Name, ...] = ()  # names on the hub


@dataclass(frozen=True, kw_only=True)
class Plan(Closed):
    """The group ``plan``: further inputs of ``userdp plan``.

    Raises:
        ConfigurationError: a value is out of range.
    """

    sampling_rate: Annotated[Real, Between(1e-9, 1)] | None
    records_per_user: tuple[Quantity, ...] | None = None  # quantiles, equally spaced from 0 to 1
    gradients: Quantity | None = None  # G, expected record gradients a round
    ks: tuple[Annotated[Whole, Between(1, 10_000)], ...] = (1, 2, 5, 10, 20)
    tuning_runs: Annotated[Whole, Between(1, 1_000_000)] | None = None

    def __post_init__(self) -> None:
        if not self.ks or len(set(self.ks)) < len(self.ks) or len(self.ks) > _MOST_KS:
            raise ConfigurationError(
                f"plan.ks={list(self.ks)}: name one to {_MOST_KS} numbers of records, each once."
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
    samples: Samples = field(default_factory=Samples)
    rouge: Rouge = field(default_factory=Rouge)
    card: Card = field(default_factory=Card)
    rounds: Rounds
    cohort: Annotated[Real, Between(0.01, LARGEST)]
    eval_every: Count
    seed: Seed
    device: Name
    resume: PathText | None
    sweep: PathText | None
    output: PathText

    def __post_init__(self) -> None:
        optimizer.check(self.optimizer)
        self._check_noise()
        if self.runtime.secure_sum and self.strategy.mechanism.keeps_rows:
            raise ConfigurationError(
                f"runtime.secure_sum=true: strategy={self.strategy.name} needs the update of every "
                "unit, and not only their sum; take another strategy."
            )
        if self.data.canaries and not self.track.simulation_only:
            raise ConfigurationError(
                f"data.canaries={self.data.canaries}: invented users are for simulations; set "
                "track.simulation_only=true."
            )
        self._check_rouge()
        rule, label = self.selection.rule, self.data.label
        if label is not None and not selection.RULES.find(rule).fits_labels:
            fitting = [name for name in selection.RULES if selection.RULES.find(name).fits_labels]
            raise ConfigurationError(
                f"selection.rule={rule} with data.label={label}: chooses by next tokens or cuts "
                f"across records; choose one of {', '.join(fitting)}."
            )

    def _check_rouge(self) -> None:
        if not self.rouge.records:
            return
        for asked, wrong in (
            (f"data.label={self.data.label}", self.data.label is not None),
            ("data without prompts", self.data.prompt is None and self.data.chat is None),
        ):
            if wrong:
                raise ConfigurationError(
                    f"rouge.records={self.rouge.records} with {asked}: answers to prompts are "
                    "compared; name data.prompt or data.chat, or set rouge.records=0."
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
