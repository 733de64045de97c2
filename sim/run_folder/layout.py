"""The names of the files in a run's folder and in a sweep's, and when a run is complete.

No other file of the project spells these names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SUMMARY = "summary/"  # prefix of the figures of a whole run, in the last line of its metrics


@dataclass(frozen=True)
class RunFolder:
    """Where the files of one run are; none of them need exist."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, as YAML."""
        return self.path / "config.yaml"

    @property
    def ledger(self) -> Path:
        """The hash-chained record of every release."""
        return self.path / "ledger.jsonl"

    @property
    def metrics(self) -> Path:
        """One JSON object a line; the last one holds the summary."""
        return self.path / "metrics.jsonl"

    @property
    def statement(self) -> Path:
        """The privacy statement, as JSON."""
        return self.path / "privacy_statement.json"

    @property
    def adapter(self) -> Path:
        """The folder that `peft.PeftModel.from_pretrained` loads."""
        return self.path / "adapter"

    @property
    def model_card(self) -> Path:
        """The README of the adapter's folder."""
        return self.adapter / "README.md"

    @property
    def checkpoint(self) -> Path:
        """The folder of the stored release, and of what later rounds need."""
        return self.path / "checkpoint"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def groups(self) -> Path:
        """Held-out scores by groups of users; simulation_only."""
        return self.path / "groups.csv"

    @property
    def exposure(self) -> Path:
        """Ranks of the canaries; simulation_only."""
        return self.path / "exposure.csv"

    @property
    def failure(self) -> Path:
        """Why a job of a sweep failed, in its first line."""
        return self.path / "failed.txt"

    @property
    def output(self) -> Path:
        """What a job of a sweep printed."""
        return self.path / "output.txt"

    @property
    def complete(self) -> bool:
        """Whether the run has ended: statement and configuration are there, the summary is last.

        The summary is the last that a run writes, after statement and adapter.
        """
        files = (self.config, self.statement, self.metrics)
        if not all(file.is_file() for file in files):
            return False
        lines = self.metrics.read_text().splitlines()
        return bool(lines) and f'"{SUMMARY}' in lines[-1]

    @property
    def begun(self) -> bool:
        """Whether any file of a run is here."""
        marks = (self.ledger, self.statement, self.metrics, self.failure)
        return any(mark.is_file() for mark in marks)


@dataclass(frozen=True)
class SweepFolder:
    """Where the files of a sweep are; the folder of a job is its number."""

    path: Path

    @property
    def index(self) -> Path:
        """Which job each folder is, as JSON."""
        return self.path / "sweep.json"

    @property
    def lock(self) -> Path:
        """Held by the process that carries the sweep out; never replaced, as the index is."""
        return self.path / "sweep.lock"

    def job(self, number: int) -> RunFolder:
        """The folder of a job."""
        return RunFolder(self.path / str(number))


def ledgers(folder: Path) -> list[Path]:
    """The ledgers in a folder, at any depth, in the order of their paths."""
    return sorted(folder.rglob(RunFolder(folder).ledger.name))
