"""A folder of a run, as tables are made of it: what was asked for and what was claimed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run that ended."""

    path: Path
    config: Mapping[str, Any]
    statement: Mapping[str, Any]

    @property
    def strategy(self) -> str:
        return self.config["strategy"]["name"]

    @property
    def epsilon(self) -> float | None:
        """The target, so that runs over several seeds meet; else the claim. None: not private."""
        target = self.config["privacy"]["epsilon"]
        return self.statement["epsilon"] if target is None else target

    def cells(self) -> dict[str, Any]:
        """What tells one run of a sweep from another, as the first columns of a table."""
        return {
            "run": self.path.name,
            "strategy": self.strategy,
            "epsilon": self.epsilon,
            "records_per_user": self.config["strategy"]["records_per_user"],
            "selection": self.config["selection"]["rule"],
            "seed": self.config["seed"],
        }

    def summary(self) -> dict[str, Any]:
        """The figures of the whole run, public and released ones alone."""
        found: dict[str, Any] = {}
        for line in (self.path / "metrics.jsonl").read_text().splitlines():
            found |= {
                key.removeprefix("summary/"): value
                for key, value in json.loads(line).items()
                if key.startswith("summary/") and "simulation_only/" not in key
            }
        return found

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of one of its csv files; none where it has no such file."""
        path = self.path / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def ended(folders: Sequence[Path]) -> list[RunFolder]:
    """Those that hold a run that ended, in the order given."""
    return [
        RunFolder(
            path=path,
            config=yaml.safe_load((path / "config.yaml").read_text()),
            statement=json.loads((path / "privacy_statement.json").read_text()),
        )
        for path in folders
        if (path / "privacy_statement.json").is_file() and (path / "config.yaml").is_file()
    ]


def of_sweep(sweep: Path) -> list[RunFolder]:
    """The runs of a sweep that ended, however deep its folders are, by path."""
    return ended(sorted(path.parent for path in sweep.rglob("privacy_statement.json")))
