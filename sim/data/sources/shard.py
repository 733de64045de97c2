"""Rows of a shard: a folder with a part of a population, which `userdp shard` has cut.

``records.jsonl`` has a row for each record, with the columns of
`userdp.sim.data.records.Columns.own`: the user's id and the side are written out, since neither
follows from a part of the data alone.
``shard.json`` holds what a reader must know of the whole: its public settings, which cut it is of,
and which part. A user's slot in the whole, divided by the number of parts, is their slot in the
part. Parts of two cuts do not fit together, were they of the same data: a user may be in both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.sim.common import cache, file_hash
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources import jsonl
from userdp.sim.data.sources.base import Opened, Origin, Source, SourceRequest

FORMAT = 1  # version of both files
RECORDS, DESCRIPTION = "records.jsonl", "shard.json"
_MOST_PARTS = 1_000_000
_KEYS = {"format", "cut", "part", "parts", "data_format", "data", "words"}
_CUT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a shard tells of itself."""

    cut: str  # 32 random hex digits, the same in all parts of a cut
    part: int | None  # 0 to parts - 1; None: the held-out records, for the server
    parts: int  # number of nodes
    data_format: str  # of the data that were cut
    data: Mapping[str, Any]  # their public settings
    words: tuple[str, ...]  # of the command that cut them, but for those about data and folders

    def json(self) -> bytes:
        """The contents of the description."""
        values = {"format": FORMAT, **vars(self)}
        return (json.dumps(values, indent=2) + "\n").encode()


def read(path: str | None) -> Shard:
    """The description of a shard.

    Args:
        path: folder of the shard.

    Raises:
        ConfigurationError: there is none, or it is damaged.
    """
    if not (path or "").strip():
        raise ConfigurationError("data.path is missing: give the folder of a shard.")
    file = Path(str(path)) / DESCRIPTION
    try:
        values = json.loads(file.read_bytes())
        if not isinstance(values, dict) or set(values) != _KEYS or values["format"] != FORMAT:
            raise ValueError
        return _checked(values)
    except FileNotFoundError:
        raise ConfigurationError(
            f"data.path={path}: no shard is there; name a folder that userdp shard has written, "
            "such as FOLDER/node-0 or FOLDER/server."
        ) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigurationError(
            f"data.path={path}: {DESCRIPTION} is damaged ({type(error).__name__}); cut the data "
            "once more with userdp shard."
        ) from None


def _checked(values: Mapping[str, Any]) -> Shard:
    part, parts, words = values["part"], values["parts"], values["words"]
    whole = all(type(number) is int for number in (parts, *([] if part is None else [part])))
    if not whole or not 1 <= parts <= _MOST_PARTS or not 0 <= (part or 0) < parts:
        raise ValueError
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError
    if not isinstance(values["data"], dict) or not isinstance(values["data_format"], str):
        raise ValueError
    if not _CUT.fullmatch(values["cut"]):
        raise ValueError
    return Shard(
        cut=values["cut"],
        part=part,
        parts=parts,
        data_format=values["data_format"],
        data=values["data"],
        words=tuple(words),
    )


class _ShardSource(Source):
    own_columns = describes_itself = True

    def origin(self, path: str | None) -> Origin | None:
        """What was cut, as the shard tells; raises as `read` does, but for a missing path."""
        if path is None:  # `check` refuses it
            return None
        shard = read(path)
        # A node scores nobody, and may have no user; the server trains nobody.
        lacks = ("train",) if shard.part is None else ("train", "heldout")
        return Origin(format=shard.data_format, settings=shard.data, cut=shard.cut, may_lack=lacks)

    def check(self, request: SourceRequest) -> None:
        """Refuse a path without a shard; raises as `read` does."""
        read(request.path)

    def open(self, request: SourceRequest, cache_folder: Path) -> Opened:
        """Hash the records, once while they stay unchanged.

        Raises:
            ConfigurationError: there is no such shard, or it is damaged.
        """
        read(request.path)
        file = Path(str(request.path)) / RECORDS
        if not file.is_file():
            raise ConfigurationError(f"data.path={request.path}: {RECORDS} is missing.")
        contents = cache.fingerprint(file_hash.of(file, cache_folder))
        return Opened(contents, lambda: jsonl.SOURCE.read(file, request.columns))


SOURCE = _ShardSource()
