"""Hash of a file's content, computed once and stored for as long as the file is unchanged.

A file counts as unchanged while its inode, size, modification time and change time are the same
(no program can set the change time). The hash of a file that changed less than 2 s ago is not
stored: a second change could fall into the same tick of the clock and would not be noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from userdp.sim.common import cache, durable_file

SETTLED_NS = 2_000_000_000  # age in ns from which two changes have different time stamps


def of(file: Path, cache_folder: Path) -> str:
    """Hexadecimal BLAKE2b hash of the file's bytes.

    Args:
        file: read in full, unless the cache has the hash of this very state of the file.
        cache_folder: where hashes are stored.

    Raises:
        OSError: the file cannot be read.
    """
    entry = cache.place(cache_folder, "digests", str(file.resolve())).with_suffix(".json")
    stamp = _stamp(os.stat(file))
    if (stored := _stored(entry, stamp)) is not None:
        return stored
    now = time.time_ns()
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "blake2b").hexdigest()
    if stamp == _stamp(os.stat(file)) and max(stamp[2:]) + SETTLED_NS < now:
        _store(entry, stamp, digest)
    return digest


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _stored(entry: Path, stamp: list[int]) -> str | None:
    """The hash in a cache entry; None if the entry is missing, damaged or of another state."""
    try:
        content = json.loads(entry.read_bytes())
        digest: str = content["digest"]
        return digest if content["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(entry: Path, stamp: list[int], digest: str) -> None:
    """Store a hash; where the cache takes no more, it is computed again the next time."""
    with contextlib.suppress(OSError):
        durable_file.replace(entry, json.dumps({"stamp": stamp, "digest": digest}).encode())
