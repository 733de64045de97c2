"""Saves a trained adapter in peft's format, for `peft.PeftModel.from_pretrained`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from userdp.clients.models.language_model import LanguageModel


def save(model: LanguageModel, adapter: np.ndarray, folder: Path, *, base: str) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``; creates the folder.

    Args:
        adapter: (D,) float32.
        base: folder or hub name of the base model, as the saved configuration names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(tensor))
        for name, tensor in model.layout.named(adapter.astype(np.float32)).items()
    }
    tensors |= {name: tensor.cpu().contiguous() for name, tensor in model.frozen.items()}
    safetensors.torch.save_file(
        tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    config = model.peft_config
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))
