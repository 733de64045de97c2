"""A loop over users, as a careful hand-written simulation: stock peft, one clip a user, a sum.

The records of a user are one batch; the noised mean is the gradient of one step of Adam.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from userdp.analysis.benchmark.peers.side import Side
from userdp.analysis.benchmark.peers.work import Work, collate, record_losses, trained


def main(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve rounds over all users."""
    spec, model = work.spec, work.plain()
    leaves, users = trained(model), list(work.users())
    optimizer = torch.optim.Adam(leaves, lr=spec.learning_rate)
    noise = torch.Generator(spec.device).manual_seed(spec.seed)

    def clipped_sum() -> Tensor:
        """(D,) float32: the sum of the users' clipped updates."""
        total = torch.zeros(sum(leaf.numel() for leaf in leaves), device=spec.device)
        for records in users:
            update = _gradient(model, leaves, records, spec.device).neg_()
            total += update * (spec.clip_norm / update.norm()).clamp(max=1.0)
        return total

    def one_round() -> None:
        total = clipped_sum()
        scale = spec.noise_multiplier * spec.clip_norm
        total += scale * torch.randn(len(total), generator=noise, device=spec.device)
        sizes = [leaf.numel() for leaf in leaves]
        parts = torch.split_with_sizes(-total / len(users), sizes)
        for leaf, part in zip(leaves, parts, strict=True):
            leaf.grad = part.view(leaf.shape)
        optimizer.step()

    serve(Side(go=one_round, clipped_sum=lambda: clipped_sum().double().cpu().numpy()))


def _gradient(
    model: torch.nn.Module,
    leaves: list[torch.nn.Parameter],
    records: list[np.ndarray],
    device: str,
) -> Tensor:
    """(D,) float32: gradient of the mean over a user's records of their mean token loss."""
    batch = collate(records, device)
    loss = record_losses(model, batch["input_ids"], batch["labels"]).mean()
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, leaves)])
