"""Reads run folders: configuration, metrics, statement, tables, and whether a run is complete.

The contents are not checked against the ledger, as `userdp verify` does, and nothing is written.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from userdp.sim.common import foreign_code
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.flatten import flatten
from userdp.sim.run_folder.layout import SUMMARY, RunFolder

State = Literal["complete", "incomplete", "failed"]
Row = Mapping[str, Any]
SIMULATION_ONLY = "simulation_only/"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a sweep has many files
NAMED = {  # columns that distinguish most runs of a sweep, and the configuration keys they show
    **{"strategy": "strategy.name", "selection": "selection.rule"},
    **{"k": "strategy.records_per_user", "seed": "seed"},
}


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity
class Run:
    """The contents of one run folder."""

    name: str  # path inside the folder that was read
    folder: Path
    state: State
    why: str = ""  # reason if the run is not complete
    config: Row = field(default_factory=dict)  # dotted name -> plain value
    rows: tuple[Row, ...] = ()  # metrics of each round, in order; round 0 is the base model
    summary: Row = field(default_factory=dict)
    statement: Row = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the run has ended and its scores are finite."""
        return self.state == "complete"

    @property
    def private(self) -> bool:
        """Whether there is a statement, and it claims an epsilon."""
        return bool(self.statement.get("private"))

    @property
    def strategy(self) -> str:
        """Name of the strategy, as the statement has it, or "unknown"; never any other text."""
        name = str(self.statement.get("strategy", self.config.get("strategy.name", "")))
        return name if name.isidentifier() or foreign_code.is_dotted(name) else "unknown"

    @property
    def noised(self) -> bool:
        """Whether the mechanism adds noise; the run need not be private even so."""
        if self.statement:
            return bool(self.statement["noise_multiplier"])
        targets = ("privacy.epsilon", "privacy.noise_multiplier")
        return any(self.config.get(key) is not None for key in targets)

    @property
    def epsilon(self) -> float | None:
        """Upper epsilon of the statement; if there is none yet, epsilon after the last round."""
        if self.statement:
            claimed: float | None = self.statement["epsilon"] if self.noised else None
            return claimed
        return next((row["epsilon"] for row in reversed(self.rows) if row.get("epsilon")), None)

    @property
    def level(self) -> float | None:
        """Epsilon to two digits; claims that were calibrated to one target agree in these."""
        return level(self.epsilon)

    @property
    def last_round(self) -> int:
        """The last round with metrics; 0 if there is none."""
        return int(self.rows[-1]["round"]) if self.rows else 0

    def named(self) -> dict[str, Any]:
        """The first columns of a table of runs, which distinguish most runs; epsilon is `level`."""
        columns = {column: self.config.get(key) for column, key in NAMED.items()}
        return {"run": self.name, **columns, "strategy": self.strategy, "epsilon": self.level}

    def table(self, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
        """Rows of one of its csv files as text; empty where there is no such file.

        Args:
            name: of the file.
            columns: that the file must have; it may have others.

        Raises:
            ConfigurationError: one of ``columns`` is missing.
        """
        path = self.folder / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [column for column in columns if column not in (rows.fieldnames or ())]
            if missing:
                raise ConfigurationError(
                    f"{path}: no column {missing[0]}; delete the file or repair it."
                )
            return list(rows)

    def series(self, key: str) -> list[tuple[int, float]]:
        """(round, value) of a metric, where it is a number; the last if a round was repeated."""
        values = {int(row["round"]): row[key] for row in self.rows if row.get(key) is not None}
        return [(number, float(value)) for number, value in sorted(values.items())]


def read(folder: Path) -> list[Run]:
    """Every run at or below a folder, sorted by name; folders inside a run's are not searched."""
    return [_run(place, _name(place, folder)) for place in _places(folder)]


def metrics(folder: RunFolder) -> list[Row]:
    """The lines of the metrics, in order; empty where there are none.

    Raises:
        ConfigurationError: they cannot be read.
    """
    try:
        return _lines(folder.metrics)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder.metrics}: {error}") from None


def configuration(folder: RunFolder) -> Row:
    """The stored configuration by dotted name; empty where there is none that can be read."""
    try:
        return flatten(_yaml(folder.config))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}


def complete(folders: Iterable[Path]) -> list[Run]:
    """The complete runs at or below any of the folders."""
    return [run for folder in folders for run in read(folder) if run.complete]


def level(epsilon: float | None) -> float | None:
    """Epsilon to two digits, or None."""
    return None if epsilon is None else float(f"{epsilon:.2g}")


def _places(folder: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(folder):
        if RunFolder(Path(place)).begun:
            folders.clear()
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _name(place: Path, folder: Path) -> str:
    inside = place.relative_to(folder).as_posix()
    return folder.resolve().name if inside == "." else inside


def _run(place: Path, name: str) -> Run:
    folder = RunFolder(place)
    try:
        config = flatten(_yaml(folder.config))
        lines = _lines(folder.metrics)
        statement = _json(folder.statement)
        failure = folder.failure.read_text(encoding="utf-8") if folder.failure.is_file() else ""
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        return Run(name=name, folder=place, state="failed", why=f"a file cannot be read: {reason}")
    rows = [row for row in lines if not any(key.startswith(SUMMARY) for key in row)]
    summary = {
        key.removeprefix(SUMMARY): value
        for row in lines
        for key, value in row.items()
        if key.startswith(SUMMARY)
    }
    state, why = _state(folder, config, rows, summary)
    if state == "incomplete" and failure:
        state, why = "failed", failure.splitlines()[0]
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


def _state(folder: RunFolder, config: Row, rows: list[Row], summary: Row) -> tuple[State, str]:
    """The state of a run, and why it is not complete."""
    if not folder.complete:
        if folder.statement.is_file():
            return "incomplete", "config.yaml or the summary in metrics.jsonl is missing"
        planned = config.get("rounds", "?")
        last = max((row["round"] for row in rows), default=0)
        return "incomplete", f"no statement: stopped or still running in round {last} of {planned}"
    loss = summary.get("heldout_loss")
    if loss is None or not math.isfinite(loss):
        return "failed", "the held-out loss at the end is not finite"
    return "complete", ""


def _yaml(path: Path) -> Row:
    return (
        _mapping(path, yaml.load(path.read_text(encoding="utf-8"), _LOADER))
        if path.is_file()
        else {}
    )


def _json(path: Path) -> Row:
    return _mapping(path, _parsed(path, path.read_text(encoding="utf-8"))) if path.is_file() else {}


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
    """Rows of a file of JSON lines, without a last line whose writing was interrupted."""
    if not path.is_file():
        return []
    *lines, _torn = path.read_text(encoding="utf-8").split("\n")
    rows = [_mapping(path, _parsed(path, line)) for line in lines if line]
    if any(type(row.get("round")) is not int for row in rows):
        raise ValueError(f"{path.name} has a line without a round")
    return rows
