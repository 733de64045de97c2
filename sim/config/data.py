"""Settings of the data: where the records come from, their columns, and who is held out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.field_types import Closed, Number, Place, Text, Whole
from userdp.sim.data.sources.base import GeneratedPopulation
from userdp.sim.data.sources.registry import SOURCES

_MINIMUM = {"users": 1, "canaries": 0, "canary_records": 1, "canary_references": 1}


@dataclass(frozen=True, kw_only=True)
class Data(Closed):
    """The group ``data`` of the configuration.

    Raises:
        ConfigurationError: a value is out of range or does not fit the format.
    """

    format: str  # name of an entry of `SOURCES`
    users: Whole = 2400  # of a generated population
    path: Place | None = None
    name: Place | None = None  # configuration of a data set of the hub
    hub_split: Place = "train"
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # `Source.option_names`
    user: Place | None = "user_id"  # column; None: every record belongs to another user
    text: Place | None = "text"
    prompt: Place | None = None
    chat: Place | None = None
    text_pair: Place | None = None
    label: Place | None = None
    classes: Whole | tuple[Whole | Text, ...] | None = None
    split: Literal["user", "record", "column"] = "user"
    split_column: Place | None = None
    holdout: Number = 0.1
    seed: Whole = 0
    strict: bool = False
    canaries: Whole = 0  # invented users, added to measure memorisation
    canary_records: Whole = 1  # identical records of each canary
    canary_references: Whole = 1024  # secrets that no user has, which canaries are ranked among

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUM.items():
            if (value := getattr(self, name)) < minimum:
                raise ConfigurationError(f"data.{name}={value}: must be at least {minimum}.")
        if self.canaries and self.label is not None:
            raise ConfigurationError(
                f"data.canaries={self.canaries}: a classification learns no text to remember; "
                "leave out data.label, or the canaries."
            )
        self._check_source()

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
    def generated(self) -> bool:
        """Whether the population is invented from public settings, so that its size is public."""
        return isinstance(SOURCES.find(self.format), GeneratedPopulation)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as text, as in the label column, by their numbers; empty without labels."""
        classes = range(self.classes) if isinstance(self.classes, int) else self.classes or ()
        return tuple(map(str, classes))
