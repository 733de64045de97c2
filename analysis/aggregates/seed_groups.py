"""Runs that differ in their seeds alone are one cell; a cell has a median and a range.

Cells compare within a task only: the same data, split rule and base model.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.sim.run_folder import reader as run_folders
from userdp.sim.run_folder.reader import Run

SEEDS = ("seed", "data.seed")
_NO_SETTING = ("output", "sweep", "resume", "device", "eval_every")  # where, not what
_NO_SETTINGS = ("track.", "engine.", "runtime.", "plan.")  # change speed and sinks, not results
_MODEL = ("model.kind", "model.path", "model.revision", "model.seq_len", "model.dtype")
_TASK = ("data.", *_MODEL)
_PLANTED = ("data.canar",)  # canaries are planted with users who train: nobody held out changes


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The score that a task is judged by."""

    key: str
    label: str
    unit: str
    lower_is_better: bool


PERPLEXITY = Metric(
    key="heldout_perplexity",
    label="held-out perplexity",
    unit="lower is better",
    lower_is_better=True,
)
ACCURACY = Metric(
    key="heldout_accuracy",
    label="held-out accuracy",
    unit="share of records, higher is better",
    lower_is_better=False,
)


@dataclass(frozen=True)
class Spread:
    """Of one figure over the seeds."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, kw_only=True, eq=False)  # one is itself alone
class Cell:
    """Complete runs of one setting."""

    runs: tuple[Run, ...]
    metric: Metric

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def strategy(self) -> str:
        """Its name, and what sets it apart from others of this name."""
        own = self.first.strategy
        if self.first.config.get("privacy.group_bound") == "lemma":
            own += " (lemma)"
        return own if self.first.private or not self.first.noised else f"{own} (NOT PRIVATE)"

    @property
    def selection(self) -> str:
        return str(self.first.config.get("selection.rule", "random"))

    @property
    def k(self) -> int | str:
        return self.first.config.get("strategy.records_per_user", "?")

    @property
    def epsilon(self) -> float | None:
        """Median claim; None where there is none."""
        claims = [run.epsilon for run in self.runs if run.epsilon is not None]
        return statistics.median(claims) if claims else None

    @property
    def level(self) -> float | None:
        """Of its epsilon, as `Run.level`."""
        return run_folders.level(self.epsilon)

    @property
    def score(self) -> Spread:
        return self.spread(self.metric.key)

    def spread(self, key: str) -> Spread:
        """Of a figure in the runs' summaries."""
        return Spread.of([float(run.summary[key]) for run in self.runs])

    def has(self, key: str) -> bool:
        return all(run.summary.get(key) is not None for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Cells whose scores may be compared."""

    name: str  # empty where there is only one
    cells: tuple[Cell, ...]
    metric: Metric

    @property
    def private(self) -> list[Cell]:
        """Cells with an epsilon, whether their runs keep the claim or are marked NOT PRIVATE."""
        return [cell for cell in self.cells if cell.level is not None]

    @property
    def plain(self) -> Cell | None:
        """The best cell without noise."""
        return best((cell for cell in self.cells if not cell.first.noised), self.metric)

    @property
    def before(self) -> Spread | None:
        """The base model's score."""
        key = f"{self.metric.key}_before"
        scores = [run.summary.get(key) for cell in self.cells for run in cell.runs]
        known = [float(score) for score in scores if score is not None]
        return Spread.of(known) if known else None

    def title(self, text: str) -> str:
        return f"{text}: {self.name}" if self.name else text

    def file(self, text: str) -> str:
        """A file name for a figure of this task."""
        return "_".join("".join(c if c.isalnum() else " " for c in f"{text} {self.name}").split())


def tasks(runs: Iterable[Run]) -> list[Task]:
    """Complete runs with a score, by task and cell."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if run.complete:
            groups.setdefault(task_key(run), []).append(run)
    names = _names([group[0] for group in groups.values()])
    return [_task(name, group) for name, group in zip(names, groups.values(), strict=True)]


def _task(name: str, runs: Sequence[Run]) -> Task:
    classes = any(run.summary.get(ACCURACY.key) is not None for run in runs)
    metric = ACCURACY if classes else PERPLEXITY
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if run.summary.get(metric.key) is not None:
            groups.setdefault(_key(run, is_setting), []).append(run)
    cells = tuple(Cell(runs=tuple(group), metric=metric) for group in groups.values())
    return Task(name=name, cells=cells, metric=metric)


def is_setting(name: str) -> bool:
    """Whether a configuration key can change the result, other than as a seed."""
    return not (name in SEEDS or name in _NO_SETTING or name.startswith(_NO_SETTINGS))


def _is_task(name: str) -> bool:
    return is_setting(name) and name.startswith(_TASK) and not name.startswith(_PLANTED)


def task_key(run: Run) -> tuple[tuple[str, str], ...]:
    """Equal for runs of one task."""
    return _key(run, _is_task)


def _key(run: Run, kept: Callable[[str], bool]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, repr(v)) for key, v in run.config.items() if kept(key)))


def _names(firsts: Sequence[Run]) -> list[str]:
    """What tells the tasks apart, in few words and each once; empty for a single one."""
    if len(firsts) < 2:
        return [""] * len(firsts)
    sources = [[source(run, group) for run in firsts] for group in ("data", "model")]
    telling = [own for own in sources if len(set(own)) > 1]
    names = [", ".join(parts) for parts in zip(*telling, strict=True)]
    if len(set(names)) == len(firsts):
        return names
    keys = sorted({key for run in firsts for key in run.config if _is_task(key)})
    differing = [k for k in keys if len({repr(run.config.get(k)) for run in firsts}) > 1]
    return [", ".join(f"{k} {short(str(run.config.get(k)))}" for k in differing) for run in firsts]


def source(run: Run, group: str) -> str:
    """The name of a path, or what there is instead of one: synthetic data, the embedded model."""
    kind = {"data": "data.format", "model": "model.kind"}[group]
    return short(str(run.config.get(f"{group}.path") or run.config.get(kind)))


def short(value: str) -> str:
    """A path's own name, or its folder's where the file is only called data."""
    path = Path(value)
    return path.parent.name if path.stem in ("data", "train") and path.parent.name else path.stem


def best(cells: Iterable[Cell], metric: Metric) -> Cell | None:
    """By median score; None of none, the first of equals."""
    sign = 1 if metric.lower_is_better else -1
    return min(cells, key=lambda cell: sign * cell.score.median, default=None)
