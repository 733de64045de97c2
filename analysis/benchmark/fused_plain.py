"""Plain training, fused as our rounds are: no lanes, clip or noise, and one Adam step a stack.

Beside stock peft a private round also gains by fusion: one-operation GELU, chunked loss, little
padding. This side has all of that, so what is left of the distance is what privacy costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from userdp.analysis.benchmark import private_round
from userdp.analysis.benchmark.peers.side import Side
from userdp.analysis.benchmark.peers.work import Work
from userdp.clients.batching import device_batches, packing
from userdp.clients.batching.device_batches import Batch
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings


def main(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve passes over all records, with the stacks of our rounds and one adapter for all rows."""
    spec = work.spec
    model = LanguageModel(work.base(), LoraSettings(r=spec.rank, alpha=2 * spec.rank))
    engine = private_round.fitted_engine(model, spec)
    start = torch.from_numpy(work.adapter(model.layout.size)).to(model.device)
    adapter = torch.nn.Parameter(start)
    optimizer = torch.optim.Adam([adapter], lr=spec.learning_rate)

    def loaded(records: list[np.ndarray]) -> list[Batch]:
        return [model.load(stack) for stack in model.stacks([records], engine.max_tokens)]

    def one_pass() -> None:
        merged = _merged(work, engine.max_lanes)
        for batches in device_batches.prefetch(merged, loaded, model.device):
            for batch in batches:
                gradient, _ = model.gradients(adapter.detach(), batch)
                adapter.grad = gradient.sum(0)
                optimizer.step()

    serve(Side(go=one_pass, details={"max_tokens": engine.max_tokens}))


def _merged(work: Work, max_lanes: int) -> Iterator[list[np.ndarray]]:
    """The records of each block of our rounds, as those of one unit."""
    for block in packing.blocks(work.users(), max_lanes):
        yield [record for unit in block for record in unit]
