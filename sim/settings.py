"""What a run was asked for: typed, checked before anything heavy, independent of Hydra.

Each error names the field, its value and the mend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sim import selection
from sim.errors import ConfigurationError


class _Closed:
    """Unknown keys are refused."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Data(_Closed):
    format: Literal["synthetic", "jsonl", "csv", "parquet", "hub"]
    users: int = 2400  # synthetic only
    path: str | None = None
    name: str | None = None
    hub_split: str = "train"
    user: str = "user_id"
    text: str = "text"
    split: str = "user"
    split_column: str | None = None
    holdout: float = 0.1
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class Lora(_Closed):
    r: int
    alpha: float
    targets: str | list[str]


@dataclass(frozen=True, kw_only=True)
class Model(_Closed):
    kind: Literal["embedded", "local", "hub"]
    path: str | None = None
    revision: str | None = None
    seq_len: int
    dtype: Literal["auto", "float32", "bfloat16"]
    lora: Lora

    def __post_init__(self) -> None:
        if self.seq_len < 2:
            raise ConfigurationError(f"model.seq_len={self.seq_len}: must be at least 2 tokens.")


@dataclass(frozen=True, kw_only=True)
class Selection(_Closed):
    rule: str

    def __post_init__(self) -> None:
        if self.rule not in selection.RULES:
            known = ", ".join(selection.RULES)
            raise ConfigurationError(f"selection.rule={self.rule}: choose one of {known}.")


@dataclass(frozen=True, kw_only=True)
class Strategy(_Closed):
    name: str
    mechanism: str  # dotted path of the class
    records_per_user: int | Literal["all"]
    clip_norm: float | None
    local_steps: int
    local_lr: float
    resample: bool

    def __post_init__(self) -> None:
        if self.records_per_user != "all" and self.records_per_user < 1:
            raise ConfigurationError(
                f"strategy.records_per_user={self.records_per_user}: must be 1 or more, or all."
            )
        if self.local_steps < 1:
            raise ConfigurationError(f"strategy.local_steps={self.local_steps}: must be 1 or more.")
        if not self.local_lr > 0:
            raise ConfigurationError(f"strategy.local_lr={self.local_lr}: must be positive.")

    @property
    def k(self) -> int:
        """Records per user; 0 for all."""
        return 0 if self.records_per_user == "all" else self.records_per_user


@dataclass(frozen=True, kw_only=True)
class Schedule(_Closed):
    name: str
    warmup: int


@dataclass(frozen=True, kw_only=True)
class Privacy(_Closed):
    users: int | None
    epsilon: float | None
    noise_multiplier: float | None
    delta: float | None
    accountant: Literal["pld", "prv", "rdp"]
    group_bound: Literal["mixture", "lemma"]
    reproducible: bool

    def __post_init__(self) -> None:
        for name in ("users", "epsilon", "noise_multiplier", "delta"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigurationError(f"privacy.{name}={value}: must be positive and finite.")


@dataclass(frozen=True, kw_only=True)
class Engine(_Closed):
    max_tokens: int
    max_lanes: int


@dataclass(frozen=True, kw_only=True)
class Runtime(_Closed):
    nodes: int
    drop_failed_nodes: bool

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ConfigurationError(f"runtime.nodes={self.nodes}: must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Track(_Closed):
    sink: Literal["jsonl", "wandb"]
    simulation_only: bool
    project: str = "userdp"
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan(_Closed):
    sampling_rate: float | None

    def __post_init__(self) -> None:
        if self.sampling_rate is not None and not 0 < self.sampling_rate <= 1:
            raise ConfigurationError(
                f"plan.sampling_rate={self.sampling_rate}: must be above 0 and at most 1."
            )


@dataclass(frozen=True, kw_only=True)
class Settings(_Closed):
    """A whole run, by the groups of the configuration."""

    data: Data
    model: Model
    selection: Selection
    strategy: Strategy
    optimizer: dict[str, Any]
    schedule: Schedule
    privacy: Privacy
    engine: Engine
    runtime: Runtime
    track: Track
    plan: Plan
    rounds: int
    cohort: float
    eval_every: int
    seed: int
    device: str
    resume: str | None
    sweep: str | None
    output: str

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigurationError(f"rounds={self.rounds}: must be at least 1.")
        if self.eval_every < 1:
            raise ConfigurationError(f"eval_every={self.eval_every}: must be at least 1.")
        if not self.cohort > 0:
            raise ConfigurationError(f"cohort={self.cohort:g}: must be positive.")
        self._check_noise()

    def _check_noise(self) -> None:
        epsilon, z = self.privacy.epsilon, self.privacy.noise_multiplier
        if self.strategy.name == "non_private":
            if (epsilon, z) != (None, None):
                raise ConfigurationError(
                    f"privacy.epsilon={epsilon}, privacy.noise_multiplier={z}: strategy=non_private "
                    "takes neither; choose a private strategy for a target."
                )
        elif (epsilon is None) == (z is None):
            raise ConfigurationError(
                f"privacy.epsilon={epsilon}, privacy.noise_multiplier={z}: give exactly one of them."
            )

    @property
    def folder(self) -> Path:
        return Path(self.resume or self.output)


def parse(config: DictConfig) -> Settings:
    """Check types and ranges of a composed configuration.

    Raises:
        ConfigurationError: with one line for the first wrong field.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigurationError(f"{missing[0]} is missing: give it a value, {missing[0]}=...")
    try:
        return pydantic.TypeAdapter(Settings).validate_python(resolved(config))
    except pydantic.ValidationError as error:
        raise ConfigurationError(_first_line(error)) from None


def _first_line(error: pydantic.ValidationError) -> str:
    """The first problem; a check of ours speaks for itself, a wrong type gets its field's name."""
    first = error.errors()[0]
    ours = first.get("ctx", {}).get("error")
    if isinstance(ours, ConfigurationError):
        return str(ours)
    name = ".".join(part for part in map(str, first["loc"]) if part.islower())
    return f"{name}={first['input']!r}: {first['msg']}."


def resolved(config: DictConfig) -> Mapping[str, Any]:
    """The composed configuration as plain values, for `config.yaml` and the trackers."""
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigurationError(str(error).splitlines()[0]) from None
    return {name: value for name, value in plain.items() if name != "hydra"}
