"""Units of one block through the engine, before the clip."""

from __future__ import annotations

from clients import update
from clients.engine import EngineSettings


def block_updates(model, adapter, units, local, max_tokens):
    """Updates of units that make one block, and their summed loss."""
    block = update.load_block(model, units, max_tokens)
    return update.block_updates(model, adapter, block, local, EngineSettings())
