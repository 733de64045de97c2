"""Resumes an interrupted run, if ledger, checkpoint, inputs and the mechanism's secrets agree."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from userdp.server.checkpoint import Checkpoint
from userdp.server.ledger import hash_chain
from userdp.server.ledger.ledger import Account, Ledger
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run import going_on, input_digests, ledger_header
from userdp.sim.run.prepare import Prepared
from userdp.sim.run_folder import unnoised_values

_LOG = logging.getLogger("userdp")


def open_run(prepared: Prepared, config: Mapping[str, Any]) -> tuple[Ledger, Mechanism]:
    """The run's ledger, open for writing, and the mechanism after the last stored release.

    It restores the optimiser and the mechanism's secrets. Nothing of the checkpoint is used, and
    nothing is written, before all of these were compared with the ledger, which is locked. A
    statement goes before the ledger does: it would be of fewer entries than the ledger has.

    Args:
        config: the resolved configuration; stored where the run has lost its own.

    Raises:
        ConfigurationError: the ledger is of another mechanism; the checkpoint is damaged, of
            another adapter or not the one that the ledger names; the records or the base model are
            others than the run started with; or the mechanism's secrets are missing.
        LedgerError: the ledger is damaged or in use.
    """
    folder, mechanisms = prepared.folder, []

    def check(account: Account) -> None:
        layout = prepared.inputs.model.layout.digest
        checkpoint = Checkpoint.load(folder.checkpoint, layout, account)
        _check_inputs(prepared, account)
        mechanisms.append(_restored(prepared, checkpoint))
        _load_secrets(prepared, account, checkpoint)
        if not going_on.has_config(folder):
            going_on.write_config(folder, config)
        durable_file.remove(folder.statement)
        for place in (folder.path, folder.checkpoint, folder.adapter):
            durable_file.clear(place)

    code = ledger_header.code(prepared.settings, prepared.plan.mechanism)
    ledger = Ledger.resume(folder.ledger, prepared.header, code=code, check=check)
    try:
        _note(prepared, ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger, mechanisms[0]


def _bound(notes: frozenset[str], ledger_format: int) -> bool:
    """Whether the run keeps digests: every new one does, and an old one once it was resumed."""
    return ledger_format > 1 or hash_chain.INPUTS_BOUND in notes


def _check_inputs(prepared: Prepared, account: Account) -> None:
    """Compare the inputs with their digests; a run of an older version has none to compare."""
    folder = prepared.folder
    if not _bound(account.notes, account.format):
        _LOG.warning(
            "resume=%s: the version that started this run kept no digests of its records and its "
            "base model: that they are the same is taken on trust, and noted in the ledger.",
            folder.path,
        )
    elif folder.input_digests.exists() or account.rounds:  # without it, nothing was intended yet
        input_digests.check(folder, prepared.inputs)


def _note(prepared: Prepared, ledger: Ledger) -> None:
    """Note what a resume adds to the history of the run, before anything else is written."""
    folder = prepared.folder
    if ledger.format == 1 and hash_chain.INPUTS_BOUND not in ledger.notes:
        ledger.note(hash_chain.INPUTS_UNKNOWN)
        input_digests.write(folder, prepared.inputs)
        ledger.note(hash_chain.INPUTS_BOUND)
    elif not folder.input_digests.exists():
        input_digests.write(folder, prepared.inputs)
    if unnoised_values.found(folder):
        ledger.note(hash_chain.SIMULATION_ONLY)


def _restored(prepared: Prepared, checkpoint: Checkpoint | None) -> Mechanism:
    """The planned mechanism with the checkpoint's state; restores the optimiser too."""
    planned = prepared.plan.mechanism
    if checkpoint is None:
        return planned
    state = checkpoint.mechanism
    problem = f"resume: {prepared.folder.checkpoint} holds no state of this run"
    if not set(state) <= set(planned.state()):
        raise ConfigurationError(f"{problem}: its mechanism has {', '.join(map(str, state))}.")
    try:
        mechanism = planned.restored(state)
        possible = planned.may_become(mechanism, checkpoint.round)
        prepared.optimizer.restore(checkpoint.optimizer)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise ConfigurationError(f"{problem}: {type(e).__name__}: {e}") from None
    if not possible:
        told = ", ".join(f"{name}={value}" for name, value in state.items())
        raise ConfigurationError(
            f"{problem}: {checkpoint.round} releases cannot have led to {told}; restore the run's "
            "own checkpoint."
        )
    return mechanism


def _load_secrets(prepared: Prepared, account: Account, checkpoint: Checkpoint | None) -> None:
    """Load the secrets into the planned mechanism, before the ledger records the resumption."""
    finished = set(range(1, account.rounds + 1)) - set(account.unfinished)
    prepared.plan.mechanism.load_secrets(
        prepared.folder.checkpoint,
        prepared.inputs.model.layout.size,
        released=max(finished | {checkpoint.round if checkpoint else 0}),
        intended=account.rounds,
        digest=checkpoint.secrets if checkpoint else None,
    )
