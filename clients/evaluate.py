"""Held-out scores of an adapter, on users declared public for evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clients import packing
from clients.model import LanguageModel
from clients.packing import Stack
from sim import masking
from sim.population import Population


@dataclass(frozen=True)
class Evaluation:
    """``loss`` in nats a token, over ``tokens`` predicted tokens: sum of NLL / sum of tokens.

    In a classification the predicted tokens are classes, one a record.
    """

    loss: float
    tokens: int
    accuracy: float | None = None  # share of records whose class is the likeliest
    majority: float | None = None  # what answering the commonest of these classes would reach

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def headline(self) -> tuple[str, float]:
        """The figure that people compare, and its name."""
        if self.accuracy is not None:
            return "accuracy", self.accuracy
        return "perplexity", self.perplexity

    def metrics(self, suffix: str = "") -> dict[str, float]:
        """The scores as a run logs them."""
        name, value = self.headline
        return {f"heldout_{name}{suffix}": value, f"heldout_loss{suffix}": self.loss}

    def better_than(self, other: Evaluation) -> bool:
        if self.accuracy is not None and other.accuracy is not None:
            return self.accuracy > other.accuracy
        return self.loss < other.loss


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
    stacks = packing.stacks([records], max_tokens)
    if model.classes is not None:
        return _classified(model, adapter, stacks, np.array([record[-1] for record in records]))
    total = torch.zeros((), dtype=torch.float64, device=adapter.device)
    for stack in stacks:
        total += model.token_losses(adapter, model.load(stack)).double().sum()
    tokens = sum(map(masking.predicted, records))
    return Evaluation(float(total) / tokens, tokens)


def _classified(
    model: LanguageModel, adapter: Tensor, stacks: Iterator[Stack], classes: np.ndarray
) -> Evaluation:
    """Loss and accuracy; ``classes`` (records,) are those of all the stacks."""
    loss, right = (torch.zeros((), dtype=torch.float64, device=adapter.device) for _ in range(2))
    for stack in stacks:
        logits, true = model.class_logits(adapter, model.load(stack))
        loss += torch.nn.functional.cross_entropy(logits.double(), true, reduction="sum")
        right += (logits.argmax(1) == true).sum()
    return Evaluation(
        loss=float(loss) / len(classes),
        tokens=len(classes),
        accuracy=float(right) / len(classes),
        majority=int(np.bincount(classes).max()) / len(classes),
    )
