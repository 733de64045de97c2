"""What differs between the configurations of runs, and what is common to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.sim.run_folder.reader import Run

_PLACE = ("output", "sweep", "resume")  # where a run is kept, no part of what it is
ABSENT = "not set"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key that differs, with each of its values and the runs that have it."""

    key: str
    values: Mapping[str, tuple[str, ...]]  # value as text -> names of runs


def keys(runs: Sequence[Run]) -> list[str]:
    """Keys in which any two of the runs differ, by name."""
    return [found.key for found in _differing(runs)]


def differing(runs: Sequence[Run]) -> list[Difference]:
    """Keys with more than one value, by name; of keys that tell the same runs apart, all."""
    return [found for found in _differing(runs) if not _is_partial(found)]


def _is_partial(found: Difference) -> bool:
    return len(set(found.values) - {ABSENT}) < 2


def _differing(runs: Sequence[Run]) -> list[Difference]:
    return [
        Difference(key=key, values={v: tuple(n) for v, n in values.items()})
        for key, values in _values(runs).items()
        if len(values) > 1
    ]


def partial(runs: Sequence[Run]) -> list[Difference]:
    """Keys that some runs have, with one value, and the others do not know."""
    return [found for found in _differing(runs) if _is_partial(found)]


def common(runs: Sequence[Run]) -> dict[str, str]:
    """Keys with one value in all runs."""
    return {key: next(iter(v)) for key, v in _values(runs).items() if len(v) == 1}


def _values(runs: Sequence[Run]) -> dict[str, dict[str, list[str]]]:
    configured = [run for run in runs if run.config]
    keys = sorted({key for run in configured for key in run.config if key not in _PLACE})
    found: dict[str, dict[str, list[str]]] = {}
    for key in keys:
        for run in configured:
            text = _text(run.config[key]) if key in run.config else ABSENT
            found.setdefault(key, {}).setdefault(text, []).append(run.name)
    return found


def _text(value: Any) -> str:
    """As YAML spells plain values."""
    plain = {None: "null", True: "true", False: "false"}
    return plain[value] if value is None or isinstance(value, bool) else str(value)
