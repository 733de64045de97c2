"""The cache on disk: its folder, keys, and atomic creation of a result's folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root() -> Path:
    """``USERDP_CACHE``, else ``XDG_CACHE_HOME/userdp``, else ``~/.cache/userdp``; not created."""
    if configured := os.environ.get("USERDP_CACHE"):
        return Path(configured)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "userdp"


def fingerprint(*parts: object) -> str:
    """A cache key of 32 hexadecimal digits; values count as equal where their ``repr`` is."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def published(folder: Path, build: Callable[[Path], None]) -> Path:
    """Create ``folder`` by ``build(temporary folder)`` unless it exists; returns ``folder``.

    The temporary folder is renamed when it is complete, so an interrupted build leaves no result,
    and of two processes that build the same folder one wins and both return it.

    Raises:
        OSError: the folder cannot be created; what ``build`` raises passes through.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        build(unfinished)
        _rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _rename(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process has built the same folder
            raise
