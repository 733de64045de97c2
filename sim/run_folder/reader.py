"""Run folders, read from their files: configuration, metrics, statement, tables, and their state.

Nothing is checked against the ledger here (that is `userdp verify`), and nothing is written.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from userdp.sim.common.errors import ConfigurationError

State = Literal["complete", "incomplete", "failed"]
Row = Mapping[str, Any]
_FAILED = "failed.txt"  # a sweep leaves it where a job ended in an error; its first line says which
_MARKS = ("ledger.jsonl", "privacy_statement.json", "metrics.jsonl", _FAILED)
_SUMMARY = "summary/"
SIMULATION_ONLY = "simulation_only/"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a sweep has many files
NAMED = {  # columns, and the configuration keys they show, that tell most runs of a sweep apart
    **{"strategy": "strategy.name", "selection": "selection.rule"},
    **{"k": "strategy.records_per_user", "seed": "seed"},
}


@dataclass(frozen=True, kw_only=True, eq=False)  # one is itself alone
class Run:
    """One run folder."""

    name: str  # path inside the folder that was read
    folder: Path
    state: State
    why: str = ""  # it is not complete
    config: Row = field(default_factory=dict)  # dotted name -> plain value
    rows: tuple[Row, ...] = ()  # metrics of each round, in order; round 0 is the base model
    summary: Row = field(default_factory=dict)
    statement: Row = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.state == "complete"

    @property
    def private(self) -> bool:
        return bool(self.statement.get("private"))

    @property
    def strategy(self) -> str:
        return str(self.config.get("strategy.name", self.statement.get("strategy", "unknown")))

    @property
    def noised(self) -> bool:
        """Whether the mechanism adds noise; such a run may still be not private."""
        return self.strategy != "non_private"

    @property
    def epsilon(self) -> float | None:
        """What the statement claims; until there is one, what the last round had spent."""
        if self.statement:
            return self.statement["epsilon"] if self.noised else None
        return next((row["epsilon"] for row in reversed(self.rows) if row.get("epsilon")), None)

    @property
    def level(self) -> float | None:
        """Epsilon to two digits: claims calibrated to one target differ after those."""
        return level(self.epsilon)

    @property
    def last_round(self) -> int:
        return int(self.rows[-1]["round"]) if self.rows else 0

    def named(self) -> dict[str, Any]:
        """What tells it from others, as the first columns of a table; epsilon is its level."""
        own = {column: self.config.get(key) for column, key in NAMED.items()}
        return {"run": self.name, **own, "strategy": self.strategy, "epsilon": self.level}

    def table(self, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
        """Rows of one of its csv files as text; none where it has no such file.

        Raises:
            ConfigurationError: one of ``columns`` is missing; further ones are left alone.
        """
        path = self.folder / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise ConfigurationError(
                    f"{path}: no column {missing[0]}; delete the file or mend it."
                )
            return list(reader)

    def series(self, key: str) -> list[tuple[int, float]]:
        """(round, value) wherever the metric is a number; the later where a resume repeats one."""
        found = {int(row["round"]): row[key] for row in self.rows if row.get(key) is not None}
        return [(number, float(value)) for number, value in sorted(found.items())]


def read(folder: Path) -> list[Run]:
    """Every run at or below a folder, by name; a folder inside a run is no run of its own."""
    return [_run(place, _name(place, folder)) for place in _places(folder)]


def complete(folders: Iterable[Path]) -> list[Run]:
    """The complete runs at or below any of the folders."""
    return [run for folder in folders for run in read(folder) if run.complete]


def level(epsilon: float | None) -> float | None:
    """To two digits, or None."""
    return None if epsilon is None else float(f"{epsilon:.2g}")


def _places(folder: Path) -> Iterator[Path]:
    for place, inner, files in os.walk(folder):
        if any(mark in files for mark in _MARKS):
            inner.clear()
            yield Path(place)
        inner[:] = sorted(name for name in inner if not name.startswith("."))


def _name(place: Path, folder: Path) -> str:
    inside = place.relative_to(folder).as_posix()
    return folder.resolve().name if inside == "." else inside


def _run(place: Path, name: str) -> Run:
    try:
        config = flat(_yaml(place / "config.yaml"))
        lines = _lines(place / "metrics.jsonl")
        statement = _json(place / "privacy_statement.json")
        failed = (place / _FAILED).read_text() if (place / _FAILED).is_file() else ""
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        return Run(name=name, folder=place, state="failed", why=f"a file cannot be read: {told}")
    rows = [row for row in lines if not any(key.startswith(_SUMMARY) for key in row)]
    summary = {
        key.removeprefix(_SUMMARY): value
        for row in lines
        for key, value in row.items()
        if key.startswith(_SUMMARY)
    }
    state, why = _state(config, rows, summary, statement)
    if state == "incomplete" and failed:
        state, why = "failed", failed.splitlines()[0]
    return Run(
        name=name,
        folder=place,
        state=state,
        why=why,
        config=config,
        rows=tuple(sorted(rows, key=lambda row: row["round"])),
        summary=summary,
        statement=statement,
    )


def _state(config: Row, rows: list[Row], summary: Row, statement: Row) -> tuple[State, str]:
    if not statement:
        planned = config.get("rounds", "?")
        last = max((row["round"] for row in rows), default=0)
        return "incomplete", f"no statement: stopped or still running in round {last} of {planned}"
    if not config or not summary:
        return "incomplete", "config.yaml or the summary in metrics.jsonl is missing"
    loss = summary.get("heldout_loss")
    if loss is None or not math.isfinite(loss):
        return "failed", "the held-out loss at the end is not finite"
    return "complete", ""


def flat(nested: Row, prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> one, by dotted name."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _yaml(path: Path) -> Row:
    return _mapping(path, yaml.load(path.read_text(), _LOADER)) if path.is_file() else {}


def _json(path: Path) -> Row:
    return _mapping(path, _parsed(path, path.read_text())) if path.is_file() else {}


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _mapping(path: Path, value: Any) -> Row:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path.name} holds no mapping")
    return value


def _lines(path: Path) -> list[Row]:
    """Rows of a file of JSON lines; a last line without its end was torn by a crash."""
    if not path.is_file():
        return []
    *lines, _torn = path.read_text().split("\n")
    rows = [_mapping(path, _parsed(path, line)) for line in lines if line]
    if any(type(row.get("round")) is not int for row in rows):
        raise ValueError(f"{path.name} has a line without a round")
    return rows


def print_csv(rows: Sequence[Mapping[str, Any]], missing: str) -> int:
    """Print a table as csv; returns the exit code, 2 after saying what is ``missing``."""
    if not rows:
        print(missing, file=sys.stderr)
        return 2
    writer = csv.DictWriter(sys.stdout, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return 0
