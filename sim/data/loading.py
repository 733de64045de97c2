"""Loads corpora: reads the rows of a source, or generates users, once per cache key.

>>> columns = Columns(user="user_id", text="text")
>>> CorpusSettings(format="jsonl", path="mail.jsonl", columns=columns, split="record").holdout
0.1
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import corpus, holdout, records
from userdp.sim.data.corpus import ChatEncode, Corpus, Encode, Example
from userdp.sim.data.records import BadRecord, Columns
from userdp.sim.data.sources.base import GeneratedPopulation, Row, Source, SourceRequest

_SIDES = {"train": False, "test": True, "validation": True}  # split column -> held out


class BadDataError(ValueError):
    """Bad data where it is refused; the message names the place and quotes nothing."""


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """What to read and how to divide it.

    Args:
        format: name of the source, part of the cache key.
        path: what the source reads; no part of the cache key, since the contents are.
        columns: which column holds what.
        split: holds out whole users ("user"), some records of each user ("record", never the first)
            or what the split column says ("column": train, test or validation).
        holdout: share held out, in [0, 1).
        seed: decides who is held out.
        strict: refuse bad data instead of dropping and counting it.
        name, hub_split, options: as in `SourceRequest`.
        max_tokens: given for labelled records, and for no others: their text is cut to make room
            for the class.

    Raises:
        ConfigurationError: a value does not fit the others; names its field.
    """

    format: str
    path: str | None
    columns: Columns
    split: str = "user"
    holdout: float = 0.1
    seed: int = 0
    strict: bool = False
    name: str | None = None
    hub_split: str = "train"
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split not in ("user", "record", "column"):
            raise ConfigurationError(f"data.split={self.split!r}: one of user, record, column")
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

    @property
    def request(self) -> SourceRequest:
        """The part that says what to read."""
        return SourceRequest(
            path=self.path,
            columns=self.columns.by_setting(),
            name=self.name,
            hub_split=self.hub_split,
            options=self.options,
        )

    def cache_key(self, contents: str, encode: Encode) -> str:
        """What the corpus depends on, as the cache needs it to name the corpus.

        Args:
            contents: fingerprint of the source.
        """
        settings = [
            *(self.format, self.columns, self.split, self.holdout, self.seed, self.strict),
            *(self.name, self.hub_split, self.max_tokens),
            *([sorted(self.options.items())] if self.options else []),
        ]
        return cache.fingerprint(corpus.FORMAT, contents, settings, encode.name)


def load(
    source: Source,
    settings: CorpusSettings,
    encode: Encode,
    cache_folder: Path,
    may_lack: Collection[str] = (),
) -> Corpus:
    """Read, tokenise and divide the source, or map what an earlier call with the same key wrote.

    Records are stored whole, however long, but for labelled ones.

    Args:
        may_lack: sides that may be without a record: "train" for data that nobody trains on.

    Raises:
        ConfigurationError: the source is missing, lacks a column or holds no training record.
        BadDataError: bad data under ``settings.strict``.
    """
    source.check(settings.request)
    opened = source.open(settings.request, cache_folder)

    def build(folder: Path) -> None:
        dropped: Counter[str] = Counter()
        read = examples(settings, opened.rows(), encode, dropped)
        corpus.write(folder, read, _batch_encoder(settings, encode), dropped)
        if "train" not in may_lack and len(Corpus.load(folder).train) == 0:
            raise ConfigurationError(
                f"data.path={settings.path!r}: no training record; "
                f"dropped because of: {', '.join(sorted(dropped)) or 'nothing, there is no row'}"
            )

    key = settings.cache_key(opened.fingerprint, encode)
    return cache.stored(cache.place(cache_folder, "corpora", key), build, Corpus.load)


def generate(
    population: GeneratedPopulation, seed: int, users: int, encode: Encode, cache_folder: Path
) -> Corpus:
    """The corpus of a generated population, whole users held out; written once, then mapped.

    Args:
        seed: of the texts and of who is held out.
        users: their number, training and held-out users together.
    """
    share = population.holdout
    key = cache.fingerprint(
        population.name, population.version, corpus.FORMAT, seed, users, share, encode.name
    )

    def build(folder: Path) -> None:
        corpus.write(folder, generated(population, seed, users), encode, {})

    return cache.stored(cache.place(cache_folder, "corpora", key), build, Corpus.load)


def generated(population: GeneratedPopulation, seed: int, users: int) -> Iterator[Example]:
    """The records of a generated population, each with its side; arguments as of `generate`."""
    for user, texts in population.users(seed, users):
        held_out = holdout.user_held_out(seed, user, population.holdout)
        for text in texts:
            yield Example(user, text, held_out)


def _batch_encoder(
    settings: CorpusSettings, encode: Encode
) -> Callable[[list[Any]], list[Sequence[int]]]:
    """The function from contents of examples to token ids; conversations are encoded already."""
    columns = settings.columns
    if columns.chat is not None:
        return list
    if settings.max_tokens is not None:
        return functools.partial(encode.labelled, max_tokens=settings.max_tokens)
    return encode if columns.prompt is None else encode.prompted


def examples(
    settings: CorpusSettings, rows: Iterator[Row], encode: ChatEncode | None, dropped: Counter[str]
) -> Iterator[Example]:
    """The good records in order, each with its side.

    Args:
        encode: of conversations, which are records only where the tokenizer takes them; None where
            there are none.
        dropped: counts bad rows by reason, and users left without a record; updated.

    Raises:
        BadDataError: a bad row under ``settings.strict``.
        ConfigurationError: a row without a side, where a column names it.
    """
    positions: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    users_with_bad_records = set()
    for row in rows:
        user = None
        try:
            if settings.strict and row.fault is not None:
                raise BadRecord(row.fault)
            user = records.user(row, settings.columns.user)
            content = records.content(row, settings.columns, encode)
        except BadRecord as bad:
            if settings.strict:
                refused = f"{row.place}: {bad} (data.strict=true refuses it)"
                raise BadDataError(refused) from None
            dropped[str(bad)] += 1
            if user is not None:
                users_with_bad_records.add(user)
        else:
            if user is None:
                user = records.own_user(content, seen)
            yield Example(user, content, _held_out(settings, row, user, positions[user]))
            positions[user] += 1
    if emptied := len(users_with_bad_records - positions.keys()):
        dropped["user left without records"] = emptied


def _held_out(settings: CorpusSettings, row: Row, user: str, position: int) -> bool:
    if settings.split == "user":
        return holdout.user_held_out(settings.seed, user, settings.holdout)
    if settings.split == "record":
        return holdout.record_held_out(settings.seed, user, position, settings.holdout)
    side = (row.columns or {}).get(settings.columns.split or "")
    if not isinstance(side, str) or side not in _SIDES:
        raise ConfigurationError(
            f"data.split_column={settings.columns.split!r}: {row.place} has another value than "
            f"{', '.join(_SIDES)}"
        )
    return _SIDES[side]
