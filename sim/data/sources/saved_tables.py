"""Folders that ``save_to_disk`` of the `datasets` library has written: Arrow files and a state."""

from __future__ import annotations

from pathlib import Path

from userdp.sim.common import cache, file_hash
from userdp.sim.common.errors import ConfigurationError

_TABLE, _TABLES = "state.json", "dataset_dict.json"  # in the folder of one table, or of its splits


def place(path: str, split: str) -> Path | None:
    """The folder of the table at a path; None where the path is no such folder.

    Args:
        path: of one table, which then has no splits, or of a folder of them by split.

    Raises:
        ConfigurationError: there are splits, and this is none of them.
    """
    folder = Path(path)
    if (folder / _TABLE).is_file():
        return folder
    if not (folder / _TABLES).is_file():
        return None
    if not (folder / split / _TABLE).is_file():
        found = ", ".join(sorted(file.parent.name for file in folder.glob(f"*/{_TABLE}")))
        raise ConfigurationError(
            f"data.hub_split={split}: no such split in {path}; there are: {found or 'none'}."
        )
    return folder / split


def fingerprint(folder: Path, cache_folder: Path) -> str:
    """The fingerprint of a table's contents, made of its files.

    What the folder says of itself does not change when somebody changes a file.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return cache.fingerprint([file_hash.of(file, cache_folder) for file in files])
