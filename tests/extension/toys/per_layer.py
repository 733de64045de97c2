"""User-wise DP-SGD that clips the layers of a user's update one by one.

The adapter's tensors are cut into L layers, in their order. Each layer of an update is clipped to
C / sqrt(L) (per-layer clipping, McMahan et al., arXiv 1710.06963). The squares of the L bounds
add up to C^2, so one user moves the whole sum by at most C: sensitivity, noise and event are those
of `UserWise`. A round is L Gaussian queries of one cohort, one a layer, each with sensitivity
C / sqrt(L) and noise of standard deviation z C; together they cost one of noise multiplier z.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from userdp.clients.training.clipping import ClippedSum, clipped_sum
from userdp.server.ledger.query import Query
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.protocol.layout import Layout

LAYERS = 4  # its square root is exact, and so is the bound of a layer


def layer_starts(layout: Layout) -> list[int]:
    """Where each layer begins in the flat adapter: at every L-th part of its tensors."""
    starts = [part.start for part, _ in layout.parts()]
    return [starts[number * len(starts) // LAYERS] for number in range(LAYERS)]


def clip_layers(rows: torch.Tensor, clip_norm: float, layout: Layout) -> ClippedSum:
    """Clip each layer of ``rows (lanes, D) float32`` to ``clip_norm / sqrt(LAYERS)``; add up."""
    finite = torch.isfinite(rows).all(dim=1, keepdim=True)  # a failed row is zero in every layer
    layers = torch.where(finite, rows, 0.0).tensor_split(layer_starts(layout)[1:], dim=1)
    sums = [clipped_sum(layer, clip_norm / math.sqrt(LAYERS)) for layer in layers]
    norms = torch.linalg.vector_norm(torch.stack([part.norms for part in sums]), dim=0)
    factors = torch.cat([part.factors.expand_as(part.unclipped) for part in sums], dim=1)
    return ClippedSum(
        total=torch.cat([part.total for part in sums]),
        norms=norms.masked_fill(~finite[:, 0], math.inf),
        unclipped=rows,
        factors=factors * finite,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerLayer(UserWise):
    """The privacy unit is the user; each layer of a user's mean update is clipped by itself."""

    clipping: ClassVar[str] = "toys.per_layer.clip_layers"

    def queries(self) -> Sequence[Query]:
        update, *clip_bits = super().queries()
        bound = update.sensitivity / math.sqrt(LAYERS)
        layers = [
            dataclasses.replace(update, name=f"layer_{number}", sensitivity=bound)
            for number in range(LAYERS)
        ]
        return [*layers, *clip_bits]

    def details(self) -> Mapping[str, Any]:
        return {"layers": LAYERS, "clip_norms_per_layer": 1 / math.sqrt(LAYERS)}

    @classmethod
    def clip_sentence(cls, facts: Mapping[str, Any]) -> str:
        bound = facts["clip_norm"] * facts["mechanism_details"]["clip_norms_per_layer"]
        return f"clipped to an L2 norm of {bound} in each layer"

    def console(self) -> str:
        return f"{super().console()} in {LAYERS} layers"
