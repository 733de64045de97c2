"""Durable files: content and name are on disk when a function returns, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file in place of the one of this name; its folder is created where it is missing.

    A crash leaves the old file or the new one, never a part; a reader sees one of the two.

    Args:
        path: of the file.
        content: all of it.
        mode: permissions of the new file, less the process's umask.

    Raises:
        OSError: the file system refuses; the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)  # left by a crash, perhaps with other permissions
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file and what an interrupted `replace` may have left of it, if they exist."""
    for name in (path, _temporary(path)):
        name.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    """Where `replace` writes the content before it takes the file's name."""
    return path.with_name(f"{path.name}.tmp")


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to disk, so that a new file keeps its name after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
