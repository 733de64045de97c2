"""Digests of the files that a run publishes beside its statement, which holds them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from userdp.sim.run_folder.layout import RunFolder

# What libraries load an adapter from, and what its readers take for its card.
_LOADED = (".safetensors", ".bin", ".pt", ".pth", "adapter_config.json", "README.md")


def digests(folder: RunFolder) -> dict[str, str]:
    """SHA-256 of every file of the adapter, the model card, samples and checkpoint, by path."""
    files = [path for path in folder.adapter.rglob("*") if path.is_file()]
    files += [*folder.checkpoint.glob("*.pt"), *([folder.samples] * folder.samples.is_file())]
    return {path.relative_to(folder.path).as_posix(): sha256(path) for path in sorted(files)}


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def foreign(folder: RunFolder, stated: set[str]) -> list[str]:
    """Weights, configuration, card or samples that the statement does not name, by path."""
    told = (*_LOADED, folder.samples.name)
    return sorted(
        name
        for name in digests(folder)
        if name not in stated and name.endswith(told) and not name.startswith("checkpoint/")
    )
