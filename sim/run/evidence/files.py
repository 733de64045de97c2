"""Compares adapter, model card and checkpoint of a run with its statement and its ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from userdp.server.ledger.ledger import Account
from userdp.server.statement import model_card
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run.evidence.findings import Findings
from userdp.sim.run_folder import published_files
from userdp.sim.run_folder.layout import RunFolder


def check_published(run: RunFolder, stated: Mapping[str, Any], found: Findings) -> None:
    """Compare the files of the adapter and the model card with a stored statement.

    Raises:
        ConfigurationError: a file is another than the statement's, or the card tells another claim.
    """
    digests = stated.get("files")
    if digests is None:
        found.lacking.append(
            "digests of adapter, model card and checkpoint: not recorded by the version that made "
            "this run"
        )
    else:
        _check_digests(run, digests, found)
    if not run.model_card.is_file():
        found.lacking.append(f"{run.model_card.relative_to(run.path)} is not there")
    elif problem := model_card.contradiction(
        run.model_card.read_text(encoding="utf-8", errors="replace"), stated
    ):
        raise ConfigurationError(f"verify: {run.model_card}: {problem}.")


def _check_digests(run: RunFolder, digests: Mapping[str, str], found: Findings) -> None:
    for name, digest in digests.items():
        path = run.path / name
        if not path.is_file():
            found.lacking.append(f"{name} is not there")
        elif published_files.sha256(path) != digest:
            raise ConfigurationError(
                f"verify: {path} is not the file that this run published: its SHA-256 is "
                f"{published_files.sha256(path)}, the statement says {digest}."
            )
        else:
            found.compared.append(name)
    if foreign := published_files.foreign(run, set(digests)):
        raise ConfigurationError(
            f"verify: {run.path / foreign[0]}: the statement names no such file of this run."
        )


def check_checkpoint(run: RunFolder, account: Account, found: Findings) -> None:
    """Compare the checkpoint with the ledger.

    Raises:
        ConfigurationError: it is damaged, or not the one that the ledger's rounds stored.
    """
    if not any(run.checkpoint.glob("*.pt")):
        if account.of_kind("done"):
            found.lacking.append(f"{run.checkpoint.name}/ is not there")
        return
    from userdp.server.checkpoint import Checkpoint, is_finite  # imports torch

    try:
        layout = account.header["adapter_layout"]
        checkpoint = Checkpoint.load(run.checkpoint, layout, account, finite=False)
    except ConfigurationError as error:
        raise ConfigurationError(f"verify: {str(error).removeprefix('resume: ')}") from None
    if checkpoint is not None:
        lost = "" if is_finite(checkpoint.optimizer) else ", which is not finite: the run diverged"
        found.compared.append(f"the checkpoint of round {checkpoint.round}{lost}")
