"""What a verification compared, what it found missing, and how it refuses a contradiction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.flatten import flatten

ROUNDING = 1e-9  # relative difference of two computations of one figure on two machines


@dataclass
class Findings:
    """Lines about the evidence, for the reader; a contradiction is an error and no line."""

    compared: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


def contradictions(
    stored: Mapping[str, Any], recomputed: Mapping[str, Any], *, source: str, other: str
) -> list[str]:
    """Every field in which two mappings differ, with both values.

    Args:
        stored: nested; its fields that ``recomputed`` lacks are not compared.
        recomputed: nested.
        source: where ``stored`` comes from, for the text.
        other: where ``recomputed`` comes from.
    """
    old = flatten({name: stored.get(name) for name in recomputed})
    new = flatten(recomputed)
    return [
        f"{name}: {old.get(name, 'absent')!r} in {source}, {new.get(name, 'absent')!r} {other}"
        for name in old | new
        if name not in old or name not in new or not same(old[name], new[name])
    ]


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, floats up to `ROUNDING`."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    numbers = (int, float)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, numbers) and isinstance(other, numbers):
        return math.isclose(one, other, rel_tol=ROUNDING)
    return bool(one == other)


def refuse_unless_empty(place: object, problems: list[str]) -> None:
    """Refuse with all problems in one line.

    Raises:
        ConfigurationError: there is a problem.
    """
    if problems:
        raise ConfigurationError(f"verify: {place}: {'; '.join(problems)}.")
