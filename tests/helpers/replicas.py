"""Engine settings that spread the blocks of a tiny model over several devices of one machine."""

from __future__ import annotations

import torch

from userdp.clients.models import replica
from userdp.clients.training.memory import EngineSettings

CPU = torch.device("cpu")


def engine(model, devices, **sizes):
    """Settings of these sizes; with more than one device, the CPU several times."""
    models = [model, *(replica.replica(model, CPU, {}) for _ in range(devices - 1))]
    return EngineSettings(models=models if devices > 1 else (), **sizes)
