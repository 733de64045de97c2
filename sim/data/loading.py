"""Records of real users from jsonl, csv, parquet or the hub, as training and held-out populations.

>>> columns = Columns(user="user_id", text="text")
>>> Source(format="jsonl", path="mail.jsonl", columns=columns, split="record").holdout
0.1
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import corpus, records
from userdp.sim.data import holdout as splits
from userdp.sim.data.corpus import Corpus, Encode, Example
from userdp.sim.data.records import BadRecord, Columns
from userdp.sim.data.sources import registry
from userdp.sim.data.sources.base import Row
from userdp.sim.data.sources.registry import Opened

_SIDES = {"train": False, "test": True, "validation": True}
_SHOWN = 20  # characters of a wrong split value that a message may quote


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to read and how to divide it.

    ``path`` is a file, a folder or a glob pattern, or the hub's name of a data set. ``split`` holds
    out whole users ("user"), some records of each user ("record", never the first) or what the
    split column says ("column": train, test or validation). ``strict`` refuses bad data instead of
    dropping and counting it. ``max_tokens`` is given for labelled records, and for no others: their
    text is cut to make room for the class.
    """

    format: str
    path: str
    columns: Columns
    split: str = "user"
    holdout: float = 0.1
    seed: int = 0
    strict: bool = False
    name: str | None = None  # hub: configuration of the data set
    hub_split: str = "train"  # hub: which of its splits to read
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.format not in registry.FORMATS:
            raise ConfigurationError(f"data.format={self.format!r}: one of {registry.FORMATS}")
        if self.split not in ("user", "record", "column"):
            raise ConfigurationError(f"data.split={self.split!r}: one of user, record, column")
        if self.format == "csv" and self.columns.chat is not None:
            raise ConfigurationError(
                f"data.chat={self.columns.chat!r}: a csv file holds no lists of messages; use "
                "jsonl or parquet"
            )
        if not 0 <= self.holdout < 1:
            raise ConfigurationError(f"data.holdout={self.holdout!r}: expected 0 <= holdout < 1")
        if (self.split == "column") != (self.columns.split is not None):
            raise ConfigurationError(
                f"data.split={self.split!r} with data.split_column={self.columns.split!r}: "
                "the column is given exactly when the split is by column"
            )
        if self.split == "record" and self.columns.user is None:
            raise ConfigurationError(
                "data.split='record' with data.user=None: every record is a user of its own; hold "
                "out by user or by column"
            )
        if (self.max_tokens is None) != (self.columns.label is None):
            raise ValueError("max_tokens is for labelled records, and they need it.")


def load(source: Source, encode: Encode, cache_folder: Path) -> Corpus:
    """Read, tokenise and divide the source, or map what an earlier call with the same key wrote.

    Records are stored whole, however long, but for labelled ones; the key covers the content of the
    source, the whole of ``source`` but its path, the tokenizer's name and the version of the
    format.

    Raises:
        ConfigurationError: the source is missing, lacks a column or holds no training record.
        ValueError: bad data under ``source.strict``; names the place, quotes nothing.
    """
    opened = _open(source, cache_folder)
    settings = [value for name, value in vars(source).items() if name != "path"]
    key = cache.fingerprint(corpus.FORMAT, opened.fingerprint, settings, encode.name)

    def build(folder: Path) -> None:
        dropped: Counter[str] = Counter()
        examples = _examples(source, opened.rows(), encode, dropped)
        corpus.write(folder, examples, _batch_encoder(source, encode), dropped)
        if len(Corpus.load(folder).train) == 0:
            raise ConfigurationError(
                f"data.path={source.path!r}: no training record; "
                f"dropped because of: {', '.join(sorted(dropped)) or 'nothing, there is no row'}"
            )

    return Corpus.load(cache.published(cache_folder / "corpora" / key, build))


def _open(source: Source, cache_folder: Path) -> Opened:
    columns = source.columns
    named = {
        "data.user": columns.user,
        "data.text": columns.text,
        "data.prompt": columns.prompt,
        "data.chat": columns.chat,
        "data.split_column": columns.split,
        "data.text_pair": columns.pair,
        "data.label": columns.label,
    }
    wanted = {field: column for field, column in named.items() if column is not None}
    if source.format == "hub":
        return registry.open_hub(source.path, source.name, source.hub_split, wanted)
    return registry.open_files(source.format, source.path, wanted, cache_folder)


def _batch_encoder(source: Source, encode: Encode) -> Callable[[list[Any]], list[list[int]]]:
    """What turns the contents of examples into ids; conversations were encoded one by one."""
    columns = source.columns
    if columns.chat is not None:
        return list
    if source.max_tokens is not None:
        return functools.partial(encode.labelled, max_tokens=source.max_tokens)
    return encode if columns.prompt is None else encode.prompted


def _examples(
    source: Source, rows: Iterator[Row], encode: Encode, dropped: Counter[str]
) -> Iterator[Example]:
    """The good records, each with its side; counts the bad ones, and the users left without any."""
    positions: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    users_with_bad_records = set()
    for row in rows:
        user = None
        try:
            user = records.user(row, source.columns.user)
            content = records.content(row, source.columns, encode)
        except BadRecord as bad:
            if source.strict:
                raise ValueError(f"{row.place}: {bad} (data.strict=true refuses it)") from None
            dropped[str(bad)] += 1
            if user is not None:
                users_with_bad_records.add(user)
        else:
            if user is None:
                user = records.own_user(content, seen)
            yield Example(user, content, _held_out(source, row, user, positions[user]))
            positions[user] += 1
    if emptied := len(users_with_bad_records - positions.keys()):
        dropped["user left without records"] = emptied


def _held_out(source: Source, row: Row, user: str, position: int) -> bool:
    if source.split == "user":
        return splits.user_held_out(source.seed, user, source.holdout)
    if source.split == "record":
        return splits.record_held_out(source.seed, user, position, source.holdout)
    side = (row.columns or {}).get(source.columns.split or "")
    if not isinstance(side, str) or side not in _SIDES:
        raise ConfigurationError(
            f"data.split_column={source.columns.split!r}: {row.place} says {str(side)[:_SHOWN]!r}; "
            f"expected one of {', '.join(_SIDES)}"
        )
    return _SIDES[side]
