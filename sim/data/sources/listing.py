"""Finds the files that a path of the configuration names, and those that it leaves out."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from userdp.sim.common.errors import ConfigurationError

# What programs write before a file is complete, or beside it.
_UNFINISHED = (".crdownload", ".download", ".part", ".partial", ".tmp", ".temp", ".swp", "~")
_HIDDEN = (".", "_")  # .ipynb_checkpoints, ._mail.jsonl, _SUCCESS, _temporary


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files to read and files that are left out, each in the order of their names."""

    files: list[Path]
    left_out: list[Path]


def found(path: str, endings: tuple[str, ...]) -> Listing:
    """The files of a path.

    A file that is named itself is read whatever its name is. Of a folder, with all folders below
    it, those are read that have one of the endings; of a glob pattern, those it matches. In both,
    hidden and unfinished files are left out, and folders that are hidden.

    Args:
        path: a file, a folder or a glob pattern.
        endings: of names, with the dot.

    Raises:
        ConfigurationError: there is no such file, or a folder cannot be read.
    """
    if os.path.isfile(path):
        return Listing(files=[Path(path)], left_out=[])
    if os.path.isdir(path):
        mend = f"a folder needs files named *{endings[0]}"
        names = sorted(_below(Path(path)))
        listing = _sorted_out(names, path, endings)
    else:
        mend = "give a file, a folder or a glob pattern"
        matches = sorted(map(Path, glob.glob(path, recursive=True)))
        listing = _sorted_out(matches, None, ())
    if not listing.files:
        reason = "not a regular file" if os.path.exists(path) and not os.path.isdir(path) else ""
        raise ConfigurationError(f"data.path={path}: {reason or 'no such file'}; {mend}.")
    for file in listing.files:
        if not file.exists():
            raise ConfigurationError(
                f"data.path={path}: {file} is a link to a file that is not there; remove it."
            )
    return listing


def _sorted_out(files: Iterable[Path], folder: str | None, endings: tuple[str, ...]) -> Listing:
    """Which of the files to read; ``endings`` may be empty, for all."""
    read: list[Path] = []
    left_out: list[Path] = []
    for file in files:
        parts = file.relative_to(folder).parts if folder is not None else (file.name,)
        name = file.name.lower()
        wanted = (
            not any(part.startswith(_HIDDEN) for part in parts)
            and not name.endswith(_UNFINISHED)
            and (not endings or name.endswith(endings))
            and (file.is_file() or (file.is_symlink() and not file.exists()))
        )
        (read if wanted else left_out).append(file)
    return Listing(files=read, left_out=left_out)


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links too, but never twice into a folder."""
    entered = set()

    def refuse(error: OSError) -> None:
        raise ConfigurationError(
            f"data.path={folder}: {error.filename} cannot be read: {error.strerror}; check its "
            "permissions."
        ) from None

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        yield from (Path(parent, name) for name in names)
