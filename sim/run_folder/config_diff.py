"""Compares the configurations of runs: keys that differ, and keys that all have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.sim.run_folder.layout import PLACE_KEYS
from userdp.sim.run_folder.reader import Run

ABSENT = "not set"  # value of a key that a run's configuration lacks


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key that differs between runs, with each of its values and the runs that have it."""

    key: str
    values: Mapping[str, tuple[str, ...]]  # value as text -> names of runs


def keys(runs: Sequence[Run]) -> list[str]:
    """Names of the keys in which any two of the runs differ, sorted."""
    return [difference.key for difference in _differing(runs)]


def differing(runs: Sequence[Run]) -> list[Difference]:
    """Keys with several values, sorted by name."""
    return [difference for difference in _differing(runs) if not _is_partial(difference)]


def _is_partial(difference: Difference) -> bool:
    return len(set(difference.values) - {ABSENT}) < 2


def _differing(runs: Sequence[Run]) -> list[Difference]:
    return [
        Difference(key=key, values={value: tuple(names) for value, names in values.items()})
        for key, values in _values(runs).items()
        if len(values) > 1
    ]


def partial(runs: Sequence[Run]) -> list[Difference]:
    """Keys that some runs have, all with the same value, and the other runs lack."""
    return [difference for difference in _differing(runs) if _is_partial(difference)]


def common(runs: Sequence[Run]) -> dict[str, str]:
    """Keys with the same value in all runs, and that value as text."""
    return {key: next(iter(values)) for key, values in _values(runs).items() if len(values) == 1}


def _values(runs: Sequence[Run]) -> dict[str, dict[str, list[str]]]:
    """For each key, its values as text and the names of the runs that have them."""
    configured = [run for run in runs if run.config]
    keys = sorted({key for run in configured for key in run.config if key not in PLACE_KEYS})
    by_key: dict[str, dict[str, list[str]]] = {}
    for key in keys:
        for run in configured:
            text = _text(run.config[key]) if key in run.config else ABSENT
            by_key.setdefault(key, {}).setdefault(text, []).append(run.name)
    return by_key


def _text(value: Any) -> str:
    """A plain value as YAML writes it."""
    plain = {None: "null", True: "true", False: "false"}
    return plain[value] if value is None or isinstance(value, bool) else str(value)
