"""Small files of records in every format, and copies of them that are damaged at random."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from helpers import corpora
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.loading import BadDataError

FORMATS = ("jsonl", "jsonl.gz", "csv", "csv.gz", "parquet")
Rows = Sequence[tuple[str, str]]


def contents(rows: Rows, ending: str) -> bytes:
    """The rows as a file of the format, written by libraries that the readers do not use."""
    if ending.endswith(".gz"):
        return gzip.compress(contents(rows, ending.removesuffix(".gz")))
    if ending == "jsonl":
        return "".join(json.dumps({"who": u, "said": t}) + "\n" for u, t in rows).encode()
    if ending == "csv":
        text = io.StringIO(newline="")
        csv.writer(text).writerows([("who", "said"), *rows])
        return text.getvalue().encode()
    table = pa.table({"who": [u for u, _ in rows], "said": [t for _, t in rows]})
    file = pa.BufferOutputStream()
    pq.write_table(table, file, row_group_size=7, write_page_checksum=True)
    return file.getvalue().to_pybytes()


def damaged(content: bytes, source: random.Random) -> bytes:
    """A copy with one fault: bytes changed, cut, doubled or swapped, or a line out of place."""
    kind, place = source.randrange(6), source.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + source.randbytes(source.randint(1, 9)) + content[place + 1 :]
    if kind == 2:
        start = source.randrange(place + 1)
        return content[:place] + content[start:]
    if kind == 3:
        hostile = [
            b"\x00",
            b'"',
            b"\r",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"[" * 5000,
            b"{",
            b"\\ud800",
        ]
        return content[:place] + source.choice(hostile) + content[place:]
    if kind == 4:
        return (
            content[:place]
            + bytes([content[place] ^ (1 << source.randrange(8))])
            + (content[place + 1 :])
        )
    lines = content.splitlines(keepends=True)
    source.shuffle(lines)
    return b"".join(lines)


def tried(rows: Rows, count: int, seed: int, folder: Path) -> Iterator[tuple[str, str]]:
    """(format, "success" or "refused") of loading damaged files, ``count`` of each format.

    Raises:
        AssertionError: an error of another kind than one line that names the file.
    """
    source = random.Random(seed)
    for ending in FORMATS:
        content = contents(rows, ending)
        for number in range(count):
            path = folder / f"{number}.{ending}"
            path.write_bytes(damaged(content, source))
            yield ending, outcome(path, folder, strict=number % 2 == 0)
            path.unlink()


def outcome(path: Path, folder: Path, **settings: object) -> str:
    """What becomes of loading a file; "refused" is one line that names the file."""
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            corpora.load(path, folder / "cache", format=form, **settings)
    except (ConfigurationError, BadDataError) as error:
        told = str(error)
    except Exception as error:
        raise AssertionError(f"{path.suffix}: {type(error).__name__}: {error}") from error
    else:
        return "success"
    if "\n" in told or str(path) not in told:
        raise AssertionError(f"not one line that names the file: {told}")
    return "refused"
