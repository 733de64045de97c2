"""What the columns of some rows hold: types of values, how often one is there, whether they repeat.

>>> rows = [Row("1", {"who": "ada", "said": "hello"}), Row("2", {"who": "ada", "said": None})]
>>> [(column.name, column.types, column.filled, column.distinct) for column in facts(rows)]
[('who', ('text',), 1.0, 1), ('said', ('text',), 0.5, 1)]
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from userdp.sim.data.sources.base import Row

MESSAGES, TEXT, INTEGER = "list of messages", "text", "integer"
_TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, TEXT),
    (bool, "true or false"),  # before integers, of which it is one
    (int, INTEGER),
    (float, "number"),
    ((datetime.datetime, datetime.date), "date"),
    (Mapping, "object"),
    (list, "list"),
)


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """What one column of some rows holds. But for name and types, these are private figures."""

    name: str
    types: tuple[str, ...]  # of its values, the most frequent first; empty if there is none
    filled: float  # share of the rows with a value that is neither null nor empty
    distinct: int  # different values among its texts and integers
    length: float  # mean characters of its texts; 0 without


@dataclass
class _Tally:
    types: Counter[str] = field(default_factory=Counter)
    values: set[int] = field(default_factory=set)  # hashes
    characters: int = 0

    def add(self, value: Any) -> None:
        kind = _type(value)
        self.types[kind] += 1
        if kind in (TEXT, INTEGER):
            self.values.add(hash(value))
        if kind == TEXT:
            self.characters += len(value)


def facts(rows: Iterable[Row]) -> list[ColumnFacts]:
    """Facts about all columns, in the order in which they first occur; broken rows are left out."""
    tallies: dict[str, _Tally] = {}
    number = 0
    for row in rows:
        number += row.columns is not None
        for name, value in (row.columns or {}).items():
            tally = tallies.setdefault(name, _Tally())
            if value is not None and value != "" and value != []:
                tally.add(value)
    return [
        ColumnFacts(
            name=name,
            types=tuple(kind for kind, _ in tally.types.most_common()),
            filled=tally.types.total() / number,
            distinct=len(tally.values),
            length=tally.characters / max(1, tally.types[TEXT]),
        )
        for name, tally in tallies.items()
    ]


def _type(value: Any) -> str:
    if isinstance(value, list) and value and all(_is_message(item) for item in value):
        return MESSAGES
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "other")


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and {"role", "content"} <= value.keys()
