"""A run that has ended, as its folder tells: what its adapter needs to be loaded, and its claim."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from userdp.clients.generation import saved_model
from userdp.server.ledger import ledger
from userdp.server.statement import prose, schema
from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import printable
from userdp.sim.config import interpolation, refusal, stored_config
from userdp.sim.config.settings import Model, Samples
from userdp.sim.data.sources import registry as sources
from userdp.sim.inputs import devices, precision
from userdp.sim.run import verify
from userdp.sim.run.verify import Verified
from userdp.sim.run_folder import published_files
from userdp.sim.run_folder.layout import RunFolder

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class EndedRun:
    """The facts of a run folder; nothing of it is loaded yet."""

    folder: RunFolder
    statement: Mapping[str, Any]
    header: Mapping[str, Any]  # of the ledger
    model: Model
    samples: Samples  # as it was configured
    prompts: tuple[str, ...]  # of its samples
    chat: bool  # whether conversations were trained on
    label: str | None  # column of the classes, of a classification

    @property
    def base_name(self) -> str:
        """Public name of the base model."""
        return str(self.header["base_model"])

    def load(self, base: str | None = None) -> tuple[Any, Any]:
        """The base model with the adapter, of peft, and the tokenizer, of transformers.

        Args:
            base: folder of the base model; None: where the run had it.

        Raises:
            ConfigurationError: a part is missing, or does not fit.
        """
        third_party.libraries()
        device = devices.device("auto")
        stored = self.header.get("base_dtype")
        dtype = _DTYPES.get(str(stored)) or precision.dtype(self.model.dtype, device)
        path, revision = self._base(base)
        return saved_model.load(
            self.folder.adapter,
            path,
            revision=revision,
            dtype=dtype,
            device=device,
            quantize=self.model.quantize,
        )

    def _base(self, given: str | None) -> tuple[str, str | None]:
        """Folder, or name on the hub, of the base model, and its commit on the hub."""
        name = "--base" if given is not None else "model.path"
        if given is None and self.folder.base.is_dir():
            return str(self.folder.base), None
        path = given if given is not None else self.model.path
        if path is None:
            raise ConfigurationError(
                f"{self.folder.path}: it keeps no copy of its base model ({self.base_name}), as a "
                "run of this version does, and the one of today is another; train again."
            )
        if given is None and self.model.kind == "hub":
            return path, self.header.get("base_revision") or self.model.revision
        if not Path(path).is_dir():
            raise ConfigurationError(
                f"{name}={path}: there is no such folder; name the base model's, --base FOLDER."
            )
        return path, None


def read(folder: Path, verb: str) -> EndedRun:
    """The run in a folder.

    Args:
        verb: of the command, for messages.

    Raises:
        ConfigurationError: there is no run, it has not ended, or a file of it is damaged.
    """
    run = RunFolder(folder)
    if not (run.config.is_file() and run.ledger.is_file()):
        raise ConfigurationError(f"{verb}: {folder}: no run is there; name a run folder.")
    if not (run.statement.is_file() and run.adapter.is_dir()):
        raise ConfigurationError(
            f"{verb}: {folder}: the run has not ended; finish it by userdp run resume={folder}."
        )
    try:
        config = interpolation.plain(stored_config.changed(str(folder), []))
        samples = refusal.checked(Samples, dict(config.get("samples") or {}), "samples.")
        return EndedRun(
            folder=run,
            statement=_statement(run),
            header=ledger.verify(run.ledger).header,
            model=refusal.checked(Model, dict(config["model"]), "model."),
            samples=samples,
            prompts=samples.prompts or sources.public_prompts(config["data"]["format"]),
            chat=config["data"].get("chat") is not None,
            label=config["data"].get("label"),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()).removeprefix("resume=")
        raise ConfigurationError(f"{verb}: {folder}: {reason}") from None


def _statement(run: RunFolder) -> Mapping[str, Any]:
    stored: dict[str, Any] = json.loads(run.statement.read_text(encoding="utf-8"))
    schema.validate(stored)
    return stored


def told(statement: Mapping[str, Any]) -> str:
    """The claim of a run for a terminal, and whether it wrote values that no claim covers."""
    text = prose.claim(statement)
    if schema.SIMULATION_ONLY in statement["not_covered"]:
        text += (
            "\nThe run also wrote values without noise (simulation_only): no epsilon covers them."
        )
    return printable(text)


def verified(run: RunFolder, verb: str) -> Verified:
    """The verification of a run whose adapter and card are those that its statement names.

    Raises:
        ConfigurationError: it does not verify, or its version recorded no digests of the adapter.
    """
    found = verify.verify(run.path)
    told = published_files.digests(run)
    missing = [name for name in told if name not in found.found.compared]
    if not found.stored or missing:
        raise ConfigurationError(
            f"{verb}: {run.path}: {', '.join(missing[:1]) or 'its statement'} is not bound to a "
            "statement, so nothing can be claimed of it; only a run of this version is."
        )
    return found
