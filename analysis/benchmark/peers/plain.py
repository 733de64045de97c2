"""Plain, non-private training: stock peft and Adam over the same records, shuffled and padded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from userdp.analysis.benchmark.peers import tuning
from userdp.analysis.benchmark.peers.side import Side
from userdp.analysis.benchmark.peers.work import Spec, Work, collate, trained


def main(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve passes over all records, each in a new order."""
    spec = work.spec
    step, rows = _step(work, spec.autocast), work.rows()
    order = np.random.Generator(np.random.PCG64([spec.seed, 4]))

    def one_pass() -> None:
        shuffled = [rows[i] for i in order.permutation(len(rows))]
        for start in range(0, len(rows), spec.batch):
            step(shuffled[start : start + spec.batch])

    serve(Side(go=one_pass, details={"batch": spec.batch, "autocast": spec.autocast}))


def tune(work: Work) -> dict[str, Any]:
    """The settings ``batch`` and ``autocast`` with the most tokens a second.

    Autocast is tried for base models in bfloat16: without it stock peft computes its float32
    adapters in float32.
    """
    rates = {
        autocast: _rates(work, autocast)
        for autocast in ((False, True) if work.spec.dtype == "bfloat16" else (False,))
    }
    autocast = max(rates, key=lambda choice: max(rates[choice].values()))
    batch = max(rates[autocast], key=rates[autocast].__getitem__)
    return {"batch": batch, "autocast": autocast}


def _rates(work: Work, autocast: bool) -> dict[int, float]:
    """Batch size -> tokens a second."""
    step, rows, spec = _step(work, autocast), work.rows(), work.spec
    draw = np.random.Generator(np.random.PCG64([spec.seed, 5]))
    shuffled = [rows[i] for i in draw.permutation(len(rows))]

    def run(records: list[np.ndarray]) -> None:
        step(records)
        if spec.device.startswith("cuda"):
            torch.cuda.synchronize()

    return tuning.best(
        tuning.powers(len(rows)),
        lambda batch: tuning.rate(run, shuffled, batch),
        lambda batch: fits(batch, spec),
    )


def fits(batch: int, spec: Spec) -> bool:
    """Whether a batch leaves enough memory to the other sides, which share the device.

    On a GPU: whether twice the memory that the last, half as large batch needed stays below 40 %
    of the card. On a CPU: `tuning.logits_fit`.
    """
    if spec.device.startswith("cuda"):
        _, whole = torch.cuda.mem_get_info()
        return 2 * torch.cuda.max_memory_allocated() < 0.4 * whole
    return tuning.logits_fit(batch, spec.length, spec.vocabulary)


def _step(work: Work, autocast: bool) -> Callable[[list[np.ndarray]], None]:
    """One step of Adam on a batch of records."""
    model, device = work.plain(), work.spec.device
    optimizer = torch.optim.Adam(trained(model), lr=work.spec.learning_rate)
    context: Any = contextlib.nullcontext()
    if autocast:
        context = torch.autocast(device.partition(":")[0], torch.bfloat16)

    def step(records: list[np.ndarray]) -> None:
        optimizer.zero_grad()
        with context:
            loss = model(**collate(records, device)).loss
        loss.backward()
        optimizer.step()

    return step
