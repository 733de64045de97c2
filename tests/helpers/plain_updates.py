"""The update of one unit by plain peft and torch's optimiser: the oracle of the engine's."""

from __future__ import annotations

import copy

import numpy as np
import peft
import torch


def peft_update(base, model, adapter, unit, steps=1, lr=1.0, dtype=torch.float32):
    """Oracle: one unit alone, plain peft, one record at a time, torch.optim.SGD."""
    adapted = peft.get_peft_model(copy.deepcopy(base), model.peft_config)
    named = model.layout.named(adapter.numpy())
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in named.items()}
    peft.set_peft_model_state_dict(adapted, state)
    adapted.to(dtype)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        for record in unit:
            signed = torch.from_numpy(np.asarray(record, np.int64))[None]
            ids = torch.where(signed < 0, ~signed, signed)
            labels = torch.where(signed < 0, -100, signed)
            (adapted(input_ids=ids, labels=labels).loss / len(unit)).backward()
        optimizer.step()
    after = peft.get_peft_model_state_dict(adapted)
    return torch.cat([after[name].flatten() for name, _ in model.layout.shapes]) - adapter
