"""What a file holds, as a hash that is computed once and remembered while the file stays the same.

A file counts as the same while its inode, size and both time stamps are (the change time cannot be
set from outside). A file changed a moment ago is not remembered: a second change could fall into
the same tick of the clock, and go unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from userdp.sim.common import cache

SETTLED_NS = 2_000_000_000  # age from which a time stamp tells two changes apart


def of(file: Path, cache_folder: Path) -> str:
    """Hexadecimal hash of the file's bytes; read whole unless an earlier call remembered it."""
    note = cache_folder / "digests" / f"{cache.fingerprint(str(file.resolve()))}.json"
    stamp = _stamp(os.stat(file))
    if (known := _remembered(note, stamp)) is not None:
        return known
    now = time.time_ns()
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "blake2b").hexdigest()
    if stamp == _stamp(os.stat(file)) and max(stamp[2:]) + SETTLED_NS < now:
        _remember(note, stamp, digest)
    return digest


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _remembered(note: Path, stamp: list[int]) -> str | None:
    try:
        known = json.loads(note.read_text())
        return known["digest"] if known["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: as if never written
        return None


def _remember(note: Path, stamp: list[int], digest: str) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    unfinished = note.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps({"stamp": stamp, "digest": digest}))
    unfinished.replace(note)
