"""Held-out loss of an adapter, on users declared public for evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clients import packing
from clients.model import LanguageModel
from sim import masking
from sim.population import Population


@dataclass(frozen=True)
class Evaluation:
    """``loss`` in nats a token, over ``tokens`` predicted tokens: sum of NLL / sum of tokens."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)


def evaluate(
    model: LanguageModel,
    adapter: Tensor,
    population: Population,
    *,
    seq_len: int,
    max_tokens: int,
    max_records: int | None = None,
) -> Evaluation:
    """Score the learned tokens of every record of a population, each cut to ``seq_len`` tokens.

    Args:
        adapter: (D,) float32 on the model's device.
        max_records: score only the first so many records, in the order of users.

    Raises:
        ValueError: if no record has a token to predict.
    """
    records = [
        cut
        for user in range(len(population))
        for record in population.records(user)
        if masking.predicted(cut := record[:seq_len])
    ][:max_records]
    if not records:
        raise ValueError("The held-out population has no token to predict.")
    total = torch.zeros((), dtype=torch.float64, device=adapter.device)
    for stack in packing.stacks([records], max_tokens):
        total += model.token_losses(adapter, stack).double().sum()
    tokens = sum(map(masking.predicted, records))
    return Evaluation(float(total) / tokens, tokens)
