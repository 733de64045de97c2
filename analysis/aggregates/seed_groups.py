"""Groups complete runs: runs that differ only in their seeds form a cell with a median and a range.

Cells are compared within a task only: the same data, split rule and base model.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.sim.run_folder import labels, reader
from userdp.sim.run_folder.reader import Run

SEEDS = ("seed", "data.seed")
_PLACES = ("output", "sweep", "resume", "device", "eval_every")  # where and how often, not what
_PLACE_GROUPS = (  # change speed, sinks and texts, not results
    *("track.", "engine.", "runtime.", "plan.", "samples.", "rouge.", "card."),
)
_MODEL = (
    *("model.kind", "model.path", "model.revision", "model.seq_len", "model.dtype"),
    "model.quantize",
)
_TASK = ("data.", *_MODEL)
_PLANTED = ("data.canar",)  # canaries are planted with training users: held-out users stay the same


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The score that a task is judged by."""

    key: str  # in a run's summary
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
    """Median and range of one figure over the seeds."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.0, high=3.0, count=3)
        """
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity
class Cell:
    """Complete runs of one setting, at least one."""

    runs: tuple[Run, ...]
    metric: Metric

    @property
    def first(self) -> Run:
        """A run that stands for all: they differ in seeds only."""
        return self.runs[0]

    @property
    def strategy(self) -> str:
        """The strategy's name, marked where it is accounted by the group lemma or NOT PRIVATE."""
        name = self.first.strategy
        if self.first.config.get("privacy.group_bound") == "lemma":
            name += " (lemma)"
        return name if self.first.private or not self.first.noised else f"{name} (NOT PRIVATE)"

    @property
    def selection(self) -> str:
        """The rule that selects a user's records."""
        return str(self.first.config.get("selection.rule", "random"))

    @property
    def k(self) -> int | str:
        """Records per user; a word where there is no cap, or none is known."""
        value = self.first.config.get("strategy.records_per_user", "?")
        return value if isinstance(value, int) else str(value)

    @property
    def epsilon(self) -> float | None:
        """Median of the runs' epsilons; None where no run has one."""
        claims = [run.epsilon for run in self.runs if run.epsilon is not None]
        return statistics.median(claims) if claims else None

    @property
    def level(self) -> float | None:
        """Its epsilon rounded to two digits, as `Run.level`."""
        return reader.level(self.epsilon)

    @property
    def score(self) -> Spread:
        """The spread of the task's metric."""
        return self.spread(self.metric.key)

    def spread(self, key: str) -> Spread:
        """The spread of a figure in the runs' summaries."""
        return Spread.of([float(run.summary[key]) for run in self.runs])

    def has(self, key: str) -> bool:
        """Whether every run's summary has the figure."""
        return all(run.summary.get(key) is not None for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Cells whose scores may be compared: one data set, split rule and base model."""

    name: str  # empty where there is only one task
    cells: tuple[Cell, ...]
    metric: Metric

    @property
    def private(self) -> list[Cell]:
        """Cells with an epsilon, whether their runs keep the claim or are marked NOT PRIVATE."""
        return [cell for cell in self.cells if cell.level is not None]

    @property
    def plain(self) -> Cell | None:
        """The best cell without noise; None where there is none."""
        return best((cell for cell in self.cells if not cell.first.noised), self.metric)

    @property
    def before(self) -> Spread | None:
        """The base model's score; None where no run has it."""
        key = f"{self.metric.key}_before"
        scores = [run.summary.get(key) for cell in self.cells for run in cell.runs]
        known = [float(score) for score in scores if score is not None]
        return Spread.of(known) if known else None

    def title(self, text: str) -> str:
        """A figure's title, with the task's name where there are several tasks."""
        return f"{text}: {self.name}" if self.name else text

    def file(self, text: str) -> str:
        """A file name for a figure of this task: letters, digits and underscores."""
        return "_".join("".join(c if c.isalnum() else " " for c in f"{text} {self.name}").split())


def tasks(runs: Iterable[Run]) -> list[Task]:
    """The complete runs that have a score, by task and cell, in the order of the runs."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if run.complete:
            groups.setdefault(task_key(run), []).append(run)
    names = _task_names([group[0] for group in groups.values()])
    return [_task(name, group) for name, group in zip(names, groups.values(), strict=True)]


def _task(name: str, runs: Sequence[Run]) -> Task:
    classification = any(run.summary.get(ACCURACY.key) is not None for run in runs)
    metric = ACCURACY if classification else PERPLEXITY
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if run.summary.get(metric.key) is not None:
            groups.setdefault(_key(run, is_setting), []).append(run)
    cells = tuple(Cell(runs=tuple(group), metric=metric) for group in groups.values())
    return Task(name=name, cells=cells, metric=metric)


def is_setting(name: str) -> bool:
    """Whether a configuration key can change the result, other than as a seed."""
    return not (name in SEEDS or name in _PLACES or name.startswith(_PLACE_GROUPS))


def _is_task(name: str) -> bool:
    return is_setting(name) and name.startswith(_TASK) and not name.startswith(_PLANTED)


def task_key(run: Run) -> tuple[tuple[str, str], ...]:
    """The run's settings of data and base model: equal for runs of one task."""
    return _key(run, _is_task)


def _key(run: Run, relevant: Callable[[str], bool]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(v)) for name, v in run.config.items() if relevant(name)))


def _task_names(runs: Sequence[Run]) -> list[str]:
    """A short, unique name for each task, from what differs between them; empty for a single one.

    Args:
        runs: one of each task.
    """
    if len(runs) < 2:
        return [""] * len(runs)
    sources = [[source(run, group) for run in runs] for group in ("data", "model")]
    differing = [column for column in sources if len(set(column)) > 1]
    names = [", ".join(parts) for parts in zip(*differing, strict=True)]
    if len(set(names)) == len(runs):
        return names
    keys = sorted({key for run in runs for key in run.config if _is_task(key)})
    varied = [k for k in keys if len({repr(run.config.get(k)) for run in runs}) > 1]
    return [
        ", ".join(f"{key} {labels.short(str(run.config.get(key)))}" for key in varied)
        for run in runs
    ]


def source(run: Run, group: str) -> str:
    """The short name of a run's data or base model: of its path, else its format or kind.

    Args:
        group: "data" or "model".
    """
    kind = {"data": "data.format", "model": "model.kind"}[group]
    return labels.short(str(run.config.get(f"{group}.path") or run.config.get(kind)))


def best(cells: Iterable[Cell], metric: Metric) -> Cell | None:
    """The cell with the best median score; the first of equals, None of none."""
    sign = 1 if metric.lower_is_better else -1
    return min(cells, key=lambda cell: sign * cell.score.median, default=None)
