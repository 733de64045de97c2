"""Settings of the data: where the records come from, their columns, and who is held out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown
from userdp.sim.config import refusal
from userdp.sim.config.field_types import (
    Closed,
    Code,
    Column,
    Flag,
    Name,
    PathText,
    Seed,
    Share,
    Whole,
)
from userdp.sim.data.sources.base import GeneratedPopulation, Origin, Source
from userdp.sim.data.sources.registry import SOURCES

MOST_CLASSES = 100_000  # outputs of a classification head
_INVENTED = Between(1, 10_000_000)  # users who are written out before a run
_ClassName = Annotated[Whole, Between(-(2**63), 2**63 - 1)] | Column


@dataclass(frozen=True, kw_only=True)
class Described(Closed):
    """The part of the group ``data`` that says who is a user, what a record is, who is held out."""

    user: Column | None = "user_id"  # None: every record belongs to another user
    text: Column | None = "text"
    prompt: Column | None = None
    chat: Column | None = None
    text_pair: Column | None = None
    label: Column | None = None
    classes: Annotated[Whole, Between(0, MOST_CLASSES)] | tuple[_ClassName, ...] | None = None
    split: Literal["user", "record", "column"] = "user"
    split_column: Column | None = None
    holdout: Share = 0.1
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class Data(Described):
    """The group ``data`` of the configuration.

    Data that were cut from others tell by themselves what `Described` holds, which then counts.

    Raises:
        ConfigurationError: a value is out of range or does not fit the format.
    """

    format: Code  # name of an entry of `SOURCES`
    users: Annotated[Whole, _INVENTED] = 2400  # of a generated population
    path: PathText | None = None
    name: Name | None = None  # configuration of a data set of the hub
    hub_split: Name = "train"
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # `Source.option_names`
    strict: Flag = False
    canaries: Annotated[Whole, Between(0, 1_000_000)] = (
        0  # invented users, added to measure memorisation
    )
    canary_records: Annotated[Whole, Between(1, 10_000)] = 1  # identical records of each canary
    canary_references: Annotated[Whole, Between(1, 1_000_000)] = (
        1024  # secrets that no user has, which canaries are ranked among
    )

    def __post_init__(self) -> None:
        if self.canaries and self.label is not None:
            raise ConfigurationError(
                f"data.canaries={self.canaries}: a classification learns no text to remember; "
                "leave out data.label, or the canaries."
            )
        self._describe()
        self._check_source()

    def _describe(self) -> None:
        """Take over what the data tell of those that they were cut from."""
        if (origin := self.origin) is None:
            return
        told = refusal.checked(Described, origin.settings, f"data.path={shown(self.path)}: data.")
        for name, value in vars(told).items():
            object.__setattr__(self, name, value)

    @property
    def origin(self) -> Origin | None:
        """What the data tell of those that they were cut from; None if they are no part of others.

        Raises:
            ConfigurationError: the data do not exist, or are damaged.
        """
        source = SOURCES.find(self.format)
        return None if isinstance(source, GeneratedPopulation) else source.origin(self.path)

    @property
    def described_format(self) -> str:
        """The format by which a claim describes the data: of those that they were cut from."""
        origin = self.origin
        return self.format if origin is None else origin.format

    def _check_source(self) -> None:
        source = SOURCES.find(self.format)
        if self.label is not None and not source.has_labels:
            raise ConfigurationError(
                f"data.label={self.label}: data.format={self.format} has no classes; choose other "
                "data."
            )
        for name, value in self.options.items():
            if name not in source.option_names:
                names = ", ".join(source.option_names)
                remedy = f"choose one of {names}" if names else "there are none; leave it out"
                raise ConfigurationError(
                    f"data.options.{name}={value}: no option of data.format={self.format}; "
                    f"{remedy}."
                )

    @property
    def hub_name(self) -> str | None:
        """Name of the data set on the hub; None for other data."""
        source = SOURCES.find(self.format)
        of_hub = isinstance(source, Source) and source.on_hub
        return self.path if of_hub and self.path and not Path(self.path).exists() else None

    @property
    def generated(self) -> bool:
        """Whether the population is invented from public settings, so that its size is public."""
        return isinstance(SOURCES.find(self.format), GeneratedPopulation)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as text, as in the label column, by their numbers; empty without labels."""
        classes = range(self.classes) if isinstance(self.classes, int) else self.classes or ()
        return tuple(map(str, classes))
