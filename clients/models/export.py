"""Saves a trained adapter in peft's format, for `peft.PeftModel.from_pretrained`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from userdp.clients.models.language_model import LanguageModel
from userdp.sim.common import durable_file


def save(
    model: LanguageModel,
    adapter: np.ndarray,
    folder: Path,
    *,
    base: str,
    revision: str | None = None,
) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``; creates the folder.

    Args:
        adapter: (D,) float32.
        base: public name of the base model, for the saved configuration; no path of this machine.
        revision: commit of a base model of the hub.
    """
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(tensor))
        for name, tensor in model.layout.named(adapter.astype(np.float32)).items()
    }
    tensors |= {name: tensor.cpu().contiguous() for name, tensor in model.frozen.items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    durable_file.replace(folder / "adapter_model.safetensors", weights)
    config = model.peft_config
    config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
    durable_file.replace(folder / "adapter_config.json", _as_json(config).encode())


def _as_json(config: Any) -> str:
    """The text that ``config.save_pretrained`` writes, which cannot replace a file whole."""
    values = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in config.to_dict().items()
    }
    return json.dumps(values, indent=2, sort_keys=True)
