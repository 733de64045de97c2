"""The interface of a data source: its request, its rows, and the class to derive from.

A source turns a request of the configuration (a path, the columns that hold users and texts) into
rows, one at a time. It knows nothing of users, splits or tokens. A new source is one module with
an object of a class derived from `Source`, and a YAML file; inside userdp also a line in
`userdp.sim.data.sources.registry.SOURCES`. The smallest one:

>>> class Greetings(Source):
...     def open(self, request, cache_folder):
...         rows = [Row("row 1", {"user_id": "ann", "text": "hello"})]
...         return Opened("greetings, version 1", lambda: iter(rows))
>>> request = SourceRequest(path=None, columns={"data.text": "text"})
>>> [row.columns["text"] for row in Greetings().open(request, Path()).rows()]
['hello']

CONTRIBUTING.md has one with an option and a check, which reads an SQLite database.
"""

from __future__ import annotations

import abc
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from userdp.sim.common.errors import ConfigurationError

_COLUMN_NAME = re.compile(r"[\w .:/-]{1,40}")


class Row(NamedTuple):
    """One row: its place (file and line), and its values by column, or None if it is broken.

    ``fault`` says what is wrong with it. A row with a fault that has columns can be read, and is
    refused under ``data.strict`` alone.
    """

    place: str
    columns: Mapping[str, Any] | None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """The settings of the group ``data`` that say what to read.

    Args:
        path: as the user gave it; what it names is up to the source.
        columns: field of the configuration (``data.text``) -> the column it names, for the columns
            that every row must have. None at all: every column, of a source that
            ``describes_itself``.
        name: configuration of a data set that has several.
        hub_split: which split of a data set to read.
        options: values of `Source.option_names`.
    """

    path: str | None
    columns: Mapping[str, str]
    name: str | None = None
    hub_split: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A source that exists: a fingerprint of its contents, for the cache key, and its rows.

    ``rows`` may be called several times. A corpus that is found in the cache under its key is used
    without calling it, so imports of slow reading libraries belong inside it.
    """

    fingerprint: str
    rows: Callable[[], Iterator[Row]]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What data that were cut from others tell of those: by it, a claim describes them.

    Args:
        format: ``data.format`` of the data that were cut.
        settings: values of the group ``data`` that say who is a user and who is held out.
        cut: id of the cut, the same in all its parts and in no other cut.
        may_lack: sides, of "train" and "heldout", that may be without a record.
    """

    format: str
    settings: Mapping[str, Any]
    cut: str
    may_lack: Collection[str] = ()


class Source(abc.ABC):
    """Reads the rows of one kind of data source.

    Attributes:
        has_labels: whether ``data.label`` may name a column.
        option_names: keys that ``data.options`` may have; any other is refused.
        on_hub: whether ``data.path`` may name a data set of the Hugging Face hub.
        own_columns: whether the rows of data with an `origin` have the columns of
            `userdp.sim.data.records.Columns.own`, whatever the settings call them.
        describes_itself: whether a request without columns is for all that there are, so that
            `userdp data` can describe data of which no column is known yet.
    """

    has_labels: ClassVar[bool] = True
    describes_itself: ClassVar[bool] = False
    option_names: ClassVar[Collection[str]] = ()
    own_columns: ClassVar[bool] = False
    on_hub: ClassVar[bool] = False

    def origin(self, path: str | None) -> Origin | None:
        """What the data at ``path`` were cut from; None for data that are no part of others.

        Raises:
            ConfigurationError: the data do not exist, or do not tell.
        """
        return None

    def check(self, request: SourceRequest) -> None:  # noqa: B027 - a source may do without
        """Refuse a request that cannot be served, without reading the data.

        It is called before the model is loaded. Override it where a missing path or a wrong option
        can be found this early.

        Raises:
            ConfigurationError: the message names the field, its value and the remedy.
        """

    @abc.abstractmethod
    def open(self, request: SourceRequest, cache_folder: Path) -> Opened:
        """Find the data and fingerprint their contents; ``cache_folder`` may keep the fingerprint.

        Raises:
            ConfigurationError: the data do not exist, or (while rows are read) they are not of this
                kind or lack a column. The message must not quote a value of a row.
        """


@dataclass(frozen=True, kw_only=True)
class GeneratedPopulation:
    """A population that a function generates; an entry of the same table as the sources.

    Args:
        name: part of the cache key.
        version: of the texts; part of the cache key.
        users: (seed, number of users) -> id and records of each user.
        holdout: share of the users held out.
        prompts: public beginnings of texts like the users', which samples go on from.
    """

    has_labels: ClassVar[bool] = False
    option_names: ClassVar[Collection[str]] = ()

    name: str
    version: int
    users: Callable[[int, int], Iterable[tuple[str, Sequence[str]]]]
    holdout: float = 0.1
    prompts: tuple[str, ...] = ()


def require_columns(wanted: Mapping[str, str], available: Iterable[str], path: str) -> None:
    """Refuse data without the wanted columns, or with two of one name.

    Args:
        wanted: as `SourceRequest.columns`.
        available: names of the columns there are; if one of them looks like a value of a record,
            as in a csv file without a header, the message shows none.
        path: of the data, for the message.

    Raises:
        ConfigurationError: a wanted column is not available, or a name is there twice.
    """
    names = list(available)
    for setting, column in wanted.items():
        if column not in names:
            mend = _mend(column, names)
            raise ConfigurationError(f"{setting}={column!r}: no such column in {path}; {mend}")
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if twice:
        shown = f"{twice[0]!r}" if _COLUMN_NAME.fullmatch(twice[0]) else "the same"
        raise ConfigurationError(
            f"data.path: {path}: two columns are named {shown}; rename one, since it is not said "
            "which is meant."
        )


def _mend(column: str, names: Sequence[str]) -> str:
    """What to change if the column is not among the names; quotes nothing but names of columns."""
    for name in names:
        if name.strip() == column:
            return f"there is {name!r}, with blanks: write the names without blanks around them"
    if len(names) == 1 and (found := [mark for mark in ";\t|" if mark in names[0]]):
        return f"its header is one field that holds {found[0]!r}: separate the fields by commas"
    if all(_COLUMN_NAME.fullmatch(name) for name in names):
        return "there are: " + ", ".join(names)
    return "no column names; is data.format right?"
