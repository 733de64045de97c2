"""Durable files: content and name are on disk when a function returns, also after a power cut.

The files of a run, a sweep and a report are written by `replace`, and by nothing else
(``tests/test_architecture.py``), but for two that grow line by line: the ledger and the metrics.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO


def replace(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file in place of the one of this name; its folder is created where it is missing.

    A crash leaves the old file or the new one, never a part; a reader sees one of the two.

    Args:
        path: of the file.
        content: all of it.
        mode: permissions of the new file, less the process's umask.

    Raises:
        OSError: the file system refuses; names ``path``, and the old file stays.
    """
    temporary = _temporary(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # left by a crash, perhaps with other permissions
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                write_all(file, content)
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()  # gives a full disk its space back
            raise
        sync_folder(path.parent)


def write_all(file: BinaryIO, content: bytes) -> None:
    """Write all of ``content`` to an unbuffered file, which may take it in parts; does not sync.

    Raises:
        OSError: the disk did not take all of it.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors of the operating system that name no file (of a full disk, say) this name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def text(path: Path) -> Iterator[IO[str]]:
    """A text in UTF-8 to write into, which replaces the file when the block ends without an error.

    Raises:
        OSError: as `replace`.
    """
    content = io.StringIO(newline="")  # what is written stays as it is
    yield content
    replace(path, content.getvalue().encode(errors="backslashreplace"))


def remove(path: Path) -> None:
    """Delete a file and what an interrupted `replace` may have left of it, if they exist."""
    for name in (path, _temporary(path)):
        name.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_folder(path.parent)


def clear(folder: Path) -> None:
    """Delete what interrupted calls of `replace` have left in a folder, if there is one.

    The next call for the same file would do so, but the last round of a run has none after it.
    """
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Where `replace` writes the content before it takes the file's name."""
    return path.with_name(f"{path.name}.tmp")


def sync_tree(folder: Path) -> None:
    """Write all files of a folder to disk, at any depth, and the lists of their names."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync_folder(Path(place, name))  # a file is synced in the same way
        sync_folder(Path(place))


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to disk, so that a new file keeps its name after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
