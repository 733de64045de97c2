"""Plain training, fused as our rounds are: no lanes, clip or noise, and one Adam step a stack.

Beside stock peft a private round also gains by fusion: one-operation GELU, chunked loss, little
padding. This side has all of that, so what is left of the distance is what privacy costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from userdp.analysis.benchmark import private_round
from userdp.analysis.benchmark.peers.side import Side
from userdp.analysis.benchmark.peers.work import Work
from userdp.clients.batching import device_batches, packing
from userdp.clients.batching.device_batches import Batch
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training.memory import EngineSettings


def main(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve passes over all records, with the stacks of our rounds and one adapter for all rows."""
    spec = work.spec
    model = LanguageModel(work.base(), LoraSettings(r=spec.rank, alpha=2 * spec.rank))
    engine = private_round.fitted_engine(model, spec)
    start = torch.from_numpy(work.adapter(model.layout.size)).to(model.device)
    adapter = torch.nn.Parameter(start)
    optimizer = torch.optim.Adam([adapter], lr=spec.learning_rate)

    def one_pass() -> None:
        for gradient in gradients(work, model, engine, adapter.detach()):
            adapter.grad = gradient
            optimizer.step()

    serve(Side(go=one_pass, details={"max_tokens": engine.max_tokens}))


def gradients(
    work: Work, model: LanguageModel, engine: EngineSettings, adapter: Tensor
) -> Iterator[Tensor]:
    """(D,) gradient of each stack's part of the mean loss over the records of its block.

    Args:
        adapter: (D,) on the model's device; it may change between two stacks.
    """

    def loaded(records: list[np.ndarray]) -> list[Batch]:
        return [model.load(stack) for stack in model.stacks([records], engine.max_tokens)]

    for batches in device_batches.prefetch(_merged(work, engine), loaded, model.device):
        for batch in batches:
            yield model.gradients(adapter, batch)[0].sum(0)


def _merged(work: Work, engine: EngineSettings) -> Iterator[list[np.ndarray]]:
    """The records of each block of our rounds, as those of one unit."""
    for block in packing.blocks(work.users(), engine.max_lanes):
        yield [record for unit in block for record in unit]
