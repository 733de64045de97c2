"""Opacus: every record is clipped, through per-sample gradients of stock peft's model.

Opacus clips, adds noise and steps Adam (`DPOptimizer`), in batches of its fastest size that
accumulate to one step, as its own memory manager does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from userdp.analysis.benchmark.peers import plain, tuning
from userdp.analysis.benchmark.peers.side import Side
from userdp.analysis.benchmark.peers.work import Work, collate, record_losses, trained


def main(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve steps over all records."""
    spec, rows = work.spec, work.rows()
    model, optimizer = _private(work)

    def accumulate(skip_last: bool) -> None:
        for start in range(0, len(rows), spec.batch):
            last = start + spec.batch >= len(rows)
            optimizer.signal_skip_step(not last or skip_last)
            _batch(model, optimizer, rows[start : start + spec.batch], spec.device)

    def clipped_sum() -> np.ndarray:
        accumulate(skip_last=True)
        parts = [leaf.summed_grad.detach().clone() for leaf in optimizer.params]
        for leaf in optimizer.params:
            leaf.summed_grad = None
        return -torch.cat([part.flatten() for part in parts]).double().cpu().numpy()

    go = lambda: accumulate(skip_last=False)  # noqa: E731
    serve(Side(go=go, clipped_sum=clipped_sum, details={"batch": spec.batch}))


def tune(work: Work) -> dict[str, Any]:
    """The setting ``batch`` with the most tokens a second."""
    spec, rows = work.spec, work.rows()
    model, optimizer = _private(work)

    def run(records: list[np.ndarray]) -> None:
        optimizer.signal_skip_step(False)
        _batch(model, optimizer, records, spec.device)
        if spec.device.startswith("cuda"):
            torch.cuda.synchronize()

    rates = tuning.best(
        tuning.powers(len(rows)),
        lambda batch: tuning.rate(run, rows, batch),
        lambda batch: plain.fits(batch, spec),
    )
    return {"batch": max(rates, key=rates.__getitem__)}


def _private(work: Work) -> tuple[GradSampleModule, DPOptimizer]:
    spec, inner = work.spec, work.plain()
    model = GradSampleModule(inner, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.Adam(trained(inner), lr=spec.learning_rate),
        noise_multiplier=spec.noise_multiplier,
        max_grad_norm=spec.clip_norm,
        expected_batch_size=len(work.lengths),
        loss_reduction="sum",
    )
    return model, optimizer


def _batch(
    model: GradSampleModule, optimizer: DPOptimizer, records: list[np.ndarray], device: str
) -> None:
    """Clip and accumulate one batch; the optimizer steps unless it was told to skip."""
    batch = collate(records, device)
    torch.autograd.backward(record_losses(model, batch["input_ids"], batch["labels"]).sum())
    optimizer.step()
    optimizer.zero_grad()
