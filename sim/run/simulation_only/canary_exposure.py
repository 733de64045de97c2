"""Whether training remembered the canaries: their exposure in bits (Carlini et al., 1802.08232).

A canary's rank is the place of its loss among its own and those of R references: 1 where the model
finds it likelier than all of them. Its exposure is ``log2((R + 1) / rank)`` (section 4.3): an
adapter that knows nothing of the secret gives every rank equally often, so 1 / ln 2 = 1.44 bits on
average, whatever the model thinks of numbers. At most log2(R + 1) bits can be seen, 10.0 for 1,024
references. The paper extrapolates further by fitting a skew-normal distribution to the losses; here
a canary of rank 1 keeps that lower bound, which assumes no shape of a tail.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from userdp.clients.evaluation import heldout
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.data.canaries import Canaries


def ranks(
    canaries: Canaries, model: LanguageModel, adapter: np.ndarray, *, max_tokens: int
) -> np.ndarray:
    """(canaries,) int64, from 1 to R + 1, under an adapter (D,)."""
    longest = int(np.diff(canaries.secrets.record_offsets).max())
    scores = heldout.evaluate(
        model,
        torch.from_numpy(adapter.astype(np.float32)).to(model.device),
        canaries.secrets,
        seq_len=longest,
        max_tokens=max_tokens,
    )
    if scores.records is None:
        raise ValueError("This evaluation kept no scores of records.")
    losses = scores.records.losses
    return ranked(losses[: canaries.count], losses[canaries.count :])


def ranked(own: np.ndarray, references: np.ndarray) -> np.ndarray:
    """(canaries,) int64: 1 + how many references are as likely or likelier.

    Ties and losses that are no numbers count against memory.
    """
    worse = own[:, None] < references  # false beside NaN
    return 1 + np.count_nonzero(~worse, axis=1)


def bits(ranks: np.ndarray, references: int) -> np.ndarray:
    """(canaries,) float64 exposure."""
    return np.log2((references + 1) / ranks)


def write(path: Path, by_round: Mapping[int, np.ndarray], references: int) -> None:
    """Columns round, canary, rank, exposure_bits; the ranks are given by round."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["round", "canary", "rank", "exposure_bits"])
        for number, found in by_round.items():
            for canary, (rank, seen) in enumerate(zip(found, bits(found, references), strict=True)):
                writer.writerow([number, canary, int(rank), float(seen)])
