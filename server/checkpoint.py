"""Checkpoint of a run: adapter, optimiser and mechanism after a round, and the ledger's head.

Nothing of a stored checkpoint is used before it was compared with the ledger (`Checkpoint.load`
with an account). The ledger's entry that closes a round holds the digest of the checkpoint of that
round. A crash between the two leaves a checkpoint of a round that is not closed: it must then name
the intent of its round as the ledger's head, and `check_state` is all that holds its numbers.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from userdp.server.ledger import hash_chain
from userdp.server.ledger.ledger import Account
from userdp.sim.common import durable_file
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
    secrets: str = ""  # of `Mechanism.store_secrets`: the digest; empty also in older versions'

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
    def load(
        cls, folder: Path, layout: str, account: Account | None = None, *, finite: bool = True
    ) -> Checkpoint | None:
        """The stored checkpoint, or None if the run stopped before its first release.

        Args:
            folder: of the checkpoint.
            layout: digest of the adapter's names and shapes.
            account: of the run's ledger, which the checkpoint is compared with; None: not compared.
            finite: refuse numbers that are not finite, from which no run can go on.

        Raises:
            ConfigurationError: it is damaged, of an adapter with other names or shapes, or not the
                one that the ledger's last round stored, or missing; or its numbers are not finite.
        """
        path = folder / _FILE
        if not path.exists():
            if account is not None and account.of_kind("done"):
                raise ConfigurationError(
                    f"resume: {path} is missing, and the ledger has stored round "
                    f"{max(account.of_kind('done'))}; restore it, or start a new run."
                )
            return None
        content = path.read_bytes()
        checkpoint = _parsed(path, content)
        if checkpoint.layout != layout:
            raise ConfigurationError(
                f"resume: {path} holds an adapter of other shapes than model.lora asks for."
            )
        if account is not None:
            _compare(path, checkpoint, hashlib.sha256(content).hexdigest(), account)
            if finite:
                check_state(path, checkpoint.optimizer)
        return checkpoint


def _parsed(path: Path, content: bytes) -> Checkpoint:
    try:
        values = torch.load(io.BytesIO(content), weights_only=True)
        checkpoint = Checkpoint(**values)
    except Exception as error:  # torch raises many types for a damaged file
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigurationError(f"resume: {path} is damaged: {reason}") from None
    kinds = {"round": int, "ledger_head": str, "layout": str, "optimizer": dict, "mechanism": dict}
    kinds["secrets"] = str
    for field in fields(Checkpoint):
        if type(getattr(checkpoint, field.name)) is not kinds[field.name]:
            raise ConfigurationError(f"resume: {path} is damaged: {field.name} is no value of ours")
    return checkpoint


def _compare(path: Path, checkpoint: Checkpoint, digest: str, account: Account) -> None:
    """Compare a checkpoint with the ledger's entries of its round."""
    if checkpoint.ledger_head not in {entry["hash"] for entry in account.entries}:
        raise ConfigurationError(
            f"resume: the checkpoint {path} names the entry {checkpoint.ledger_head}, which the "
            f"ledger lacks: {hash_chain.NOT_IN_CHAIN}."
        )
    number = checkpoint.round
    intents, done = account.of_kind("intent"), account.of_kind("done")
    if number in done:
        if digest != done[number]["release"]:
            raise ConfigurationError(
                f"resume: {path} is not the checkpoint of round {number}: its SHA-256 is {digest}, "
                f"the ledger says {done[number]['release']}; it was changed, or two copies of the "
                "run folder both went on (a fork); restore the run's own."
            )
        if number < max(done):
            raise ConfigurationError(
                f"resume: {path} is of round {number}, and the ledger has stored round "
                f"{max(done)}: it is an old copy; restore the run's own."
            )
        return
    # The crash came after the checkpoint was stored and before the ledger closed its round.
    intent = intents.get(number, {}).get("hash")
    if intent != checkpoint.ledger_head or number < max(done, default=0):
        raise ConfigurationError(
            f"resume: {path} says that it is of round {number}, which the ledger does not hold as "
            "stored; restore the run's own."
        )


def check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Check that every number in the state of a `ServerOptimizer` is finite.

    Raises:
        ConfigurationError: one is not.
    """
    if not is_finite(state):
        raise ConfigurationError(
            f"resume: {path} holds numbers that are not finite: the adapter is lost; start a "
            "new run with a smaller learning rate, or restore an earlier checkpoint."
        )


def is_finite(state: Mapping[str, Any]) -> bool:
    """Whether every number in the state of a `ServerOptimizer` is finite."""
    for value in _leaves(state):
        if isinstance(value, torch.Tensor):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return False
        elif isinstance(value, float) and value != value:
            return False
    return True


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        yield value
        return
    for item in value:
        yield from _leaves(item)
