"""File names in the folder of a run and of a sweep, and the test whether a run is complete.

No other module contains these names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SUMMARY = "summary/"  # prefix of the figures of a whole run, in the last line of its metrics
PLACE_KEYS = ("output", "sweep", "resume")  # of a configuration: where the run is stored


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of one run; they need not exist."""

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
        """The metrics, a JSON object a line; in a complete run the last one is the summary."""
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
        """The model card: the README of the adapter's folder."""
        return self.adapter / "README.md"

    @property
    def checkpoint(self) -> Path:
        """The folder of the last stored release, and of secrets that later rounds need."""
        return self.path / "checkpoint"

    @property
    def input_digests(self) -> Path:
        """Keyed digests of the records and the base model: private, and deleted at the end."""
        return self.checkpoint / "inputs.json"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def wandb_id(self) -> Path:
        """The id of the Weights & Biases run, which a resumed run goes on with."""
        return self.path / "wandb" / "run-id.txt"

    @property
    def samples(self) -> Path:
        """Texts that base model and adapter wrote after public prompts, a JSON object a line."""
        return self.path / "samples.jsonl"

    @property
    def base(self) -> Path:
        """A copy of the base model, where nobody else has the same."""
        return self.adapter / "base"

    @property
    def groups(self) -> Path:
        """Held-out scores by groups of users; simulation_only."""
        return self.path / "groups.csv"

    @property
    def exposure(self) -> Path:
        """Ranks of the canaries; simulation_only."""
        return self.path / "exposure.csv"

    @property
    def user_inference(self) -> Path:
        """What `userdp attack` of this run measured; simulation_only."""
        return self.path / "user_inference.csv"

    @property
    def audit(self) -> Path:
        """What `userdp audit` of this run measured, as JSON; of invented users alone."""
        return self.path / "audit.json"

    @property
    def failure(self) -> Path:
        """Why a job of a sweep failed, in its first line."""
        return self.path / "failed.txt"

    @property
    def output(self) -> Path:
        """The standard output and standard error of a job of a sweep."""
        return self.path / "output.txt"

    @property
    def complete(self) -> bool:
        """Whether the run has ended: configuration, statement and a last line with the summary.

        A run writes the summary at its very end, after statement and adapter.
        """
        files = (self.config, self.statement, self.metrics)
        if not all(file.is_file() for file in files):
            return False
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        return bool(lines) and f'"{SUMMARY}' in lines[-1]

    @property
    def released(self) -> bool:
        """Whether the folder has a file that only a run with a ledger writes."""
        marks = (self.statement, self.metrics, self.adapter)
        return any(mark.exists() for mark in marks) or any(self.checkpoint.glob("*.pt"))

    @property
    def begun(self) -> bool:
        """Whether the folder has a file that only runs write."""
        marks = (self.ledger, self.statement, self.metrics, self.failure)
        return any(mark.is_file() for mark in marks)


@dataclass(frozen=True)
class SweepFolder:
    """Paths of the files of a sweep; the folder of a job is named by the job's number."""

    path: Path

    @property
    def index(self) -> Path:
        """The overrides of the sweep and the choices of each job, as JSON."""
        return self.path / "sweep.json"

    @property
    def lock(self) -> Path:
        """Locked by the process that runs the sweep; unlike the index, it is never replaced."""
        return self.path / "sweep.lock"

    def job(self, number: int) -> RunFolder:
        """The folder of the job with this number."""
        return RunFolder(self.path / str(number))


def ledgers(folder: Path) -> list[Path]:
    """The ledgers in a folder, at any depth, sorted by path."""
    return sorted(folder.rglob(RunFolder(folder).ledger.name))
