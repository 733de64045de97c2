"""Settings of the data: where the records come from, their columns, and who is held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.field_types import Closed, Number, Text, Whole

_LEAST = {"users": 1, "canaries": 0, "canary_records": 1, "canary_references": 1}  # of data


@dataclass(frozen=True, kw_only=True)
class Data(Closed):
    format: Literal["synthetic", "form_letters", "jsonl", "csv", "parquet", "hub"]
    users: Whole = 2400  # of those that are invented
    path: str | None = None
    name: str | None = None
    hub_split: str = "train"
    user: str | None = "user_id"  # None: every record is a user of its own
    text: str | None = "text"
    prompt: str | None = None
    chat: str | None = None
    text_pair: str | None = None
    label: str | None = None
    classes: Whole | tuple[Whole | Text, ...] | None = None
    split: Literal["user", "record", "column"] = "user"
    split_column: str | None = None
    holdout: Number = 0.1
    seed: Whole = 0
    strict: bool = False
    canaries: Whole = 0  # invented users, planted to measure memorisation
    canary_records: Whole = 1  # of each, all the same
    canary_references: Whole = 1024  # secrets that nobody holds, to rank theirs among

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise ConfigurationError(f"data.{name}={value}: must be at least {least}.")
        self._check_canaries()
        if self.format in ("synthetic", "form_letters") and self.label is not None:
            raise ConfigurationError(
                f"data.label={self.label}: invented users have no classes; choose other data."
            )

    def _check_canaries(self) -> None:
        if self.canaries and self.label is not None:
            raise ConfigurationError(
                f"data.canaries={self.canaries}: a classification learns no text to remember; "
                "leave out data.label, or the canaries."
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the label column spells them, in the order of their numbers; none: no labels."""
        given = range(self.classes) if isinstance(self.classes, int) else self.classes or ()
        return tuple(map(str, given))
