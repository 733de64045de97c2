"""Writes what an adapter's folder holds beside the adapter: the tokenizer, and a copy of a base."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from userdp.sim.common import durable_file


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer as transformers saves it, chat template included.

    How the last call of it truncated and padded is left out.

    Args:
        tokenizer: of transformers.
        folder: of the adapter.
    """
    alone = copy.deepcopy(tokenizer)
    backend = getattr(alone, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    with tempfile.TemporaryDirectory(prefix="userdp-") as place:
        alone.save_pretrained(place)  # which cannot replace a file whole
        _copied(Path(place), folder)


def copy_base(base: Path, folder: Path) -> None:
    """Copy a base model's files, for a base that nobody else has.

    Args:
        base: folder of the model; files in folders below it are left out.
        folder: for the copy.
    """
    _copied(base, folder)


def _copied(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file():
            durable_file.replace(folder / path.name, path.read_bytes())
