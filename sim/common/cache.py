"""The cache on disk: its folder, keys, and atomic creation of a result's folder.

What is stored in the cache is as private as the records. Its names are not: they appear in listings
of folders, in error messages and in a system's logs. A name that is a plain hash of the content
would tell whoever can guess a neighbouring file which of the two was used. Names are therefore
keyed hashes (HMAC, RFC 2104): without the random key in the cache's root, which only its owner may
read, a name says nothing but which results are the same ones.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError

VARIABLE = "USERDP_CACHE"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NUMPY_FULL = " requested and "  # its error for a full disk has no number: how many were written
_Value = TypeVar("_Value")


def cache_root() -> Path:
    """``USERDP_CACHE``, else ``XDG_CACHE_HOME/userdp``, else ``~/.cache/userdp``; not created.

    Raises:
        ConfigurationError: no variable is set, and this user has no home folder.
    """
    if configured := os.environ.get(VARIABLE):
        return Path(configured)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "userdp"
    try:
        return Path.home() / ".cache" / "userdp"
    except RuntimeError:  # neither HOME nor an entry in the table of users
        raise ConfigurationError(
            f"{VARIABLE} is not set, and this user has no home folder; set {VARIABLE} to a folder "
            "that can be written."
        ) from None


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    """Turn what the system says about the cache into one line that names the variable.

    Raises:
        ConfigurationError: a file of the cache cannot be read or written, or its disk is full.
    """
    try:
        yield
    except OSError as error:
        named = error.filename is not None
        inside = named and Path(error.filename).absolute().is_relative_to(root.absolute())
        if error.errno in (errno.EMFILE, errno.ENFILE):  # not for want of a better folder
            raise
        full = error.errno in _FULL or _NUMPY_FULL in str(error)
        if not (inside or (full and not named)):
            raise  # of what is read to be stored
        where = error.filename if inside else root
        raise ConfigurationError(
            f"{VARIABLE}={root}: {where}: {error.strerror or error}; set {VARIABLE} to a folder "
            "that can be written and has space."
        ) from error


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
        ConfigurationError: the key cannot be read or written.
    """
    with _told(root):
        key = _key(root)
    name = hmac.new(key, repr((kind, parts)).encode(), "sha256").hexdigest()
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
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(unfinished)
    return path.read_bytes()


def published(folder: Path, build: Callable[[Path], None]) -> Path:
    """Create ``folder`` by ``build(temporary folder)`` unless it exists; returns ``folder``.

    The temporary folder is renamed when it is complete and on disk, so an interrupted build leaves
    no result, and of two processes that build the same folder one wins and both return it.

    Args:
        folder: of the result, in the folder of its kind in the cache's root.
        build: fills the temporary folder.

    Raises:
        ConfigurationError: the cache cannot be written; what else ``build`` raises passes through.
    """
    with _told(folder.parents[1]):
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
        try:
            build(unfinished)
            durable_file.sync_tree(unfinished)
            _rename(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def stored(folder: Path, build: Callable[[Path], None], read: Callable[[Path], _Value]) -> _Value:
    """What ``read(folder)`` makes of a result of `published`; a damaged one is built anew, once.

    Raises:
        ConfigurationError: as `published`; what else ``build`` and ``read`` raise passes through.
    """
    published(folder, build)
    with _told(folder.parents[1]):
        try:
            return read(folder)
        except PermissionError:
            raise
        except ConfigurationError:
            raise
        except (OSError, EOFError, LookupError, TypeError, ValueError):  # cut or lost by a crash
            shutil.rmtree(folder)
            return read(published(folder, build))


def _rename(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process has built the same folder
            raise
