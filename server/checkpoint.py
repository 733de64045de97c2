"""The stored release: adapter and optimiser after a round, and the ledger's head at that moment."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from userdp.server.ledger.ledger import sync_folder
from userdp.sim.common.errors import ConfigurationError

_FILE = "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """What a resumed run starts from."""

    round: int
    ledger_head: str
    layout: str  # digest of the adapter's names and shapes
    optimizer: dict[str, Any]
    mechanism: dict[str, Any]  # what its releases have made of it

    def save(self, folder: Path) -> str:
        """Store durably, replacing the one before; returns the SHA-256 of the stored bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        content = buffer.getvalue()
        temporary = folder / f"{_FILE}.tmp"
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / _FILE)
        sync_folder(folder)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def load(cls, folder: Path, layout: str) -> Checkpoint | None:
        """The stored checkpoint, or None if the run stopped before its first release.

        Raises:
            ConfigurationError: if it holds another adapter.
        """
        path = folder / _FILE
        if not path.exists():
            return None
        checkpoint = cls(**torch.load(path, weights_only=True))
        if checkpoint.layout != layout:
            raise ConfigurationError(
                f"resume: {path} holds an adapter of other shapes than model.lora asks for."
            )
        return checkpoint
