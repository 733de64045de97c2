"""The cache on disk: its folder, keys, and atomic creation of a result's folder.

What is stored in the cache is as private as the records. Its names are not: they appear in listings
of folders, in error messages and in a system's logs. A name that is a plain hash of the content
would tell whoever can guess a neighbouring file which of the two was used. Names are therefore
keyed hashes (HMAC, RFC 2104): without the random key in the cache's root, which only its owner may
read, a name says nothing but which results are the same ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
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


KEY_FILE, _KEY_BYTES = ".key", 32


def place(root: Path, kind: str, *parts: object) -> Path:
    """The folder or file of one result, ``root/kind/<32 hexadecimal digits>``; not created.

    Args:
        root: of the cache; its key is made if there is none.
        kind: of the result; a folder of the cache.
        parts: all that the result depends on; equal where their ``repr`` is.

    Raises:
        OSError: the key cannot be read or written.
    """
    name = hmac.new(_key(root), repr((kind, parts)).encode(), "sha256").hexdigest()
    return root / kind / name[:32]


def _key(root: Path) -> bytes:
    """The key of the cache. Of two processes that make it, one wins and both read its key."""
    path = root / KEY_FILE
    with contextlib.suppress(FileNotFoundError):
        if len(key := path.read_bytes()) == _KEY_BYTES:
            return key
        path.unlink()  # damaged: what was stored under it is no longer found
    root.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=".unfinished-", dir=root)  # mode 0600
    with os.fdopen(handle, "wb") as file:
        file.write(os.urandom(_KEY_BYTES))
    try:
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(unfinished)
    return path.read_bytes()


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
