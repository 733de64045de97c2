"""Checkpoint of a run: adapter, optimiser and mechanism after a round, and the ledger's head."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from userdp.server.ledger import durable_file
from userdp.sim.common.errors import ConfigurationError

_FILE = "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """State that a resumed run starts from."""

    round: int  # number of the last round whose release is in the state
    ledger_head: str  # hash of the ledger's last entry when the state was stored
    layout: str  # digest of the adapter's names and shapes
    optimizer: dict[str, Any]  # of `ServerOptimizer.state`
    mechanism: dict[str, Any]  # of `Mechanism.state`

    def save(self, folder: Path) -> str:
        """Write the checkpoint durably, in place of the last one.

        Returns:
            The SHA-256 of the stored bytes, in hexadecimal digits.
        """
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        content = buffer.getvalue()
        durable_file.replace(folder / _FILE, content)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def load(cls, folder: Path, layout: str) -> Checkpoint | None:
        """The stored checkpoint, or None if the run stopped before its first release.

        Raises:
            ConfigurationError: it is of an adapter with other names or shapes than ``layout``.
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
