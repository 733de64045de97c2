"""Updates of the units of one block before the clip."""

from __future__ import annotations

from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings


def block_updates(model, adapter, units, local, max_tokens):
    """Updates (units, D) float32 of units that form one block, and their summed loss."""
    block = cohort_update.load_block(model, units, max_tokens)
    return cohort_update.block_updates(model, adapter, block, local, EngineSettings())
