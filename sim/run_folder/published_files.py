"""Digests of the files that a run publishes beside its statement, which holds them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from userdp.sim.run_folder.layout import RunFolder

# What libraries load an adapter from, and what its readers take for its card.
_LOADED = (".safetensors", ".bin", ".pt", ".pth", "adapter_config.json", "README.md")


def digests(folder: RunFolder) -> dict[str, str]:
    """SHA-256 of every file of the adapter, the model card, and the checkpoint, by path inside."""
    files = [path for path in folder.adapter.rglob("*") if path.is_file()]
    files += list(folder.checkpoint.glob("*.pt"))
    return {path.relative_to(folder.path).as_posix(): sha256(path) for path in sorted(files)}


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def foreign(folder: RunFolder, stated: set[str]) -> list[str]:
    """Weights, configuration or card of an adapter that the statement does not name, by path."""
    return sorted(
        name
        for name in digests(folder)
        if name not in stated and name.endswith(_LOADED) and not name.startswith("checkpoint/")
    )
