"""Measures how much of the canaries training memorised, in bits of exposure.

The exposure of a canary (Carlini et al., "The Secret Sharer", arXiv 1802.08232, section 4.3) is
``log2((R + 1) / rank)``, where the rank is the position of its loss among those of R references,
1 if the model finds it likelier than all of them. If the adapter has learned nothing of the secret,
all ranks are equally likely, and the exposure is 1 / ln 2 = 1.44 bits on average, for any base
model. The largest exposure is log2(R + 1), 10.0 bits for 1,024 references. The paper extrapolates
beyond it with a skew-normal distribution fitted to the losses; this module does not, so a canary of
rank 1 has a lower bound of its exposure that assumes no distribution.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from userdp.clients.evaluation import heldout
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.common import durable_file
from userdp.sim.data.canaries import Canaries


def ranks(
    canaries: Canaries, model: LanguageModel, adapter: np.ndarray, *, max_tokens: int
) -> np.ndarray:
    """The rank of each canary, from 1 to R + 1, under an adapter.

    Args:
        adapter: (D,) of any float type.
        max_tokens: positions of one forward pass.

    Returns:
        (canaries,) int64.

    Raises:
        ValueError: the evaluation has no scores of records.
    """
    longest = int(np.diff(canaries.secrets.record_offsets).max())
    scores = heldout.evaluate(
        model,
        torch.from_numpy(adapter.astype(np.float32)).to(model.device),
        canaries.secrets,
        seq_len=longest,
        max_tokens=max_tokens,
    )
    if scores.records is None:
        raise ValueError("This evaluation has no scores of records.")
    losses = scores.records.losses
    return ranked(losses[: canaries.count], losses[canaries.count :])


def ranked(losses: np.ndarray, references: np.ndarray) -> np.ndarray:
    """1 + the number of references whose loss is not larger, for each canary.

    Ties and NaN losses give a larger rank, so less exposure.

    Args:
        losses: (canaries,) of the canaries.
        references: (R,) losses of the references.

    Returns:
        (canaries,) int64.
    """
    likelier = losses[:, None] < references  # (canaries, R); False beside NaN
    positions: np.ndarray = 1 + np.count_nonzero(~likelier, axis=1)
    return positions


def bits(ranks: np.ndarray, references: int) -> np.ndarray:
    """(canaries,) float64 exposure of ranks (canaries,) among this number of references."""
    exposure: np.ndarray = np.log2((references + 1) / ranks)
    return exposure


def write(path: Path, by_round: Mapping[int, np.ndarray], references: int) -> None:
    """Write a csv file with the columns round, canary, rank and exposure_bits.

    Args:
        by_round: ranks (canaries,) int64 by round.
        references: R.
    """
    with durable_file.text(path) as file:
        writer = csv.writer(file)
        writer.writerow(["round", "canary", "rank", "exposure_bits"])
        for number, ranks in by_round.items():
            exposure = bits(ranks, references)
            for canary, values in enumerate(zip(ranks.tolist(), exposure.tolist(), strict=True)):
                writer.writerow([number, canary, *values])
