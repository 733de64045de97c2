"""Resumes an interrupted run, if ledger, checkpoint and the mechanism's secrets agree."""

from __future__ import annotations

from userdp.server.checkpoint import Checkpoint
from userdp.server.ledger import hash_chain
from userdp.server.ledger.ledger import Account, Ledger, verify
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run import ledger_header
from userdp.sim.run.prepare import Prepared


def open_ledger(prepared: Prepared) -> Ledger:
    """The run's ledger, open for writing; restores the optimiser and the mechanism's secrets.

    Raises:
        ConfigurationError: the checkpoint is damaged or of another adapter, the mechanism's secrets
            are missing, the ledger is of another mechanism, or another process has resumed the run.
        LedgerError: the ledger is damaged, in use, or of another history than the checkpoint.
    """
    folder, checkpoint = prepared.folder, _checkpoint(prepared)
    account = verify(folder.ledger)
    _load_secrets(prepared, account, checkpoint)
    head = checkpoint.ledger_head if checkpoint else None
    code = ledger_header.code(prepared.settings, prepared.plan.mechanism)
    ledger = Ledger.resume(folder.ledger, prepared.header, head, code=code)
    if ledger.rounds_intended != account.rounds:  # changed between reading and locking
        ledger.close()
        raise ConfigurationError(
            f"resume={folder.path}: another process has resumed this run; try again."
        )
    if checkpoint:
        prepared.optimizer.restore(checkpoint.optimizer)
    return ledger


def mechanism(prepared: Prepared) -> Mechanism:
    """The planned mechanism; in a resumed run with the state after the last stored release."""
    planned = prepared.plan.mechanism
    if prepared.settings.resume is None:
        return planned
    layout = prepared.inputs.model.layout
    checkpoint = Checkpoint.load(prepared.folder.checkpoint, layout.digest)
    return planned if checkpoint is None else planned.restored(checkpoint.mechanism)


def _checkpoint(prepared: Prepared) -> Checkpoint | None:
    folder, layout = prepared.folder, prepared.inputs.model.layout
    try:
        return Checkpoint.load(folder.checkpoint, layout.digest)
    except ConfigurationError:
        raise
    except Exception as error:  # torch raises many types for a damaged file
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(
            f"resume={folder.path}: {folder.checkpoint} is damaged: {reason}"
        ) from None


def _load_secrets(prepared: Prepared, account: Account, checkpoint: Checkpoint | None) -> None:
    """Load the secrets into the planned mechanism, before the ledger records the resumption."""
    if hash_chain.differences(account.header, hash_chain.plain(prepared.header, "header")):
        return  # another mechanism: `Ledger.resume` names the differences, and refuses
    finished = set(range(1, account.rounds + 1)) - set(account.unfinished)
    prepared.plan.mechanism.load_secrets(
        prepared.folder.checkpoint,
        prepared.inputs.model.layout.size,
        released=max(finished | {checkpoint.round if checkpoint else 0}),
        intended=account.rounds,
    )
