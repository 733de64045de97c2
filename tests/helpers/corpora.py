"""Small corpora from files, and their records as texts by user."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from userdp.sim.data import loading, population
from userdp.sim.data.corpus import Corpus
from userdp.sim.data.loading import CorpusSettings
from userdp.sim.data.population import Population
from userdp.sim.data.records import Columns
from userdp.sim.data.sources.registry import SOURCES

COLUMNS = Columns(user="who", text="said")
ROWS = [
    ("ada", "one, two"),
    ("bob", 'a "quoted"\nsecond line'),
    ("ada", "three"),
    ("7", "ünï ☃"),
    ("bob", "again"),
    ("cy", "x"),
]


class Bytes:
    """A tokenizer with one token per byte; counts the texts it was given."""

    def __init__(self, name: str = "bytes") -> None:
        self.name, self.texts = name, 0

    def __call__(self, texts: list[str]) -> list[list[int]]:
        self.texts += len(texts)
        return [[*text.encode(), 0] for text in texts]


def write_jsonl(path: Path, rows: Iterable[tuple[Any, str]]) -> Path:
    path.write_text("".join(json.dumps({"who": u, "said": t}) + "\n" for u, t in rows))
    return path


def load(path: Path, folder: Path, encode: Any = None, **changes: Any) -> Corpus:
    """The corpus of the file, nothing held out unless ``changes`` say so; cached in ``folder``."""
    values = {"format": "jsonl", "path": str(path), "columns": COLUMNS, "holdout": 0.0}
    settings = CorpusSettings(**{**values, **changes})
    return loading.load(SOURCES.find(settings.format), settings, encode or Bytes(), folder)


def texts(users: Population) -> dict[int, list[str]]:
    """The texts by user key."""
    return {
        int(key): [bytes(record[:-1].tolist()).decode() for record in users.records(slot)]
        for slot, key in enumerate(users.user_keys)
    }


def by_user(rows: Iterable[tuple[str, str]]) -> dict[int, list[str]]:
    """The texts by user key, of the rows themselves."""
    grouped: dict[int, list[str]] = {}
    for user, text in rows:
        grouped.setdefault(population.user_key(user), []).append(text)
    return grouped
