"""Refuses a checkpoint that is an adapter, or holds one beside its base model's weights.

Loaded as a base model, such a checkpoint is the plain base, or a base with another adapter inside
it. A new adapter is saved without either, so what was scored could not be loaded again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils.peft_utils import find_adapter_config_file

from userdp.sim.common.errors import ConfigurationError


def refuse(path: str | Path, revision: str | None) -> None:
    """Check that a folder, or a repository of the hub, holds no configuration of an adapter.

    Args:
        revision: branch, tag or commit on the hub; None takes the default branch.

    Raises:
        ConfigurationError: it does; the message names the adapter's own base model.
        OSError: the hub has no such repository.
    """
    found: str | None = find_adapter_config_file(str(path), revision=revision)
    if found is not None:
        raise ConfigurationError(_told(path, _base(Path(found))))


def refuse_inserted(path: str | Path, base: Any) -> None:
    """Check that a loaded model, of transformers, came without an adapter inside it.

    Raises:
        ConfigurationError: it did not.
    """
    if getattr(base, "_hf_peft_config_loaded", False):
        raise ConfigurationError(_told(path, "its base model"))


def _told(path: str | Path, base: str) -> str:
    return (
        f"model.path={path}: it holds an adapter (adapter_config.json) of {base}, from which no "
        "other adapter can start; merge the two by peft's merge_and_unload(), save the whole "
        "model and its tokenizer in a new folder, and name that."
    )


def _base(configuration: Path) -> str:
    """The base model that an adapter's configuration names, as a message calls it."""
    try:
        named = json.loads(configuration.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        named = None
    return named if isinstance(named, str) and named else "a base model that it does not name"
