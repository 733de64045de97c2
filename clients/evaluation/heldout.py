"""Held-out scores of an adapter, on users declared public for evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from userdp.clients.batching import device_batches, packing
from userdp.clients.batching.packing import Stack
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.data import masking
from userdp.sim.data.population import Population


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordScores:
    """What the figures of an evaluation are sums of, record by record."""

    users: np.ndarray  # (records,) int64: slot of the record's user
    losses: np.ndarray  # (records,) float64: NLL in nats, sum over the record's predicted tokens
    tokens: np.ndarray  # (records,) int64: predicted tokens, at least one
    right: np.ndarray | None = None  # (records,) bool: whether the class is the likeliest


@dataclass(frozen=True)
class Evaluation:
    """``loss`` in nats a token, over ``tokens`` predicted tokens: sum of NLL / sum of tokens.

    In a classification the predicted tokens are classes, one a record.
    """

    loss: float
    tokens: int
    accuracy: float | None = None  # share of records whose class is the likeliest
    majority: float | None = None  # what answering the commonest of these classes would reach
    records: RecordScores | None = field(default=None, compare=False, repr=False)

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
    scored = [
        (user, cut)
        for user in range(len(population))
        for record in population.records(user)
        if masking.predicted(cut := record[:seq_len])
    ][:max_records]
    if not scored:
        raise ValueError("The held-out population has no token to predict.")
    users = np.array([user for user, _ in scored])
    records = [record for _, record in scored]
    # Every record is a unit of its own, so a row's lane says which record it is.
    stacks = packing.stacks([[record] for record in records], max_tokens)
    if model.classes is not None:
        return _classified(model, adapter, stacks, users, records)
    losses = np.zeros(len(records))
    batches = device_batches.ahead(stacks, model.load, model.device)
    found = ((batch.stack, model.token_losses(adapter, batch)) for batch in batches)
    for stack, nll in device_batches.behind(found):
        losses[stack.lanes] = row_losses(stack, nll)
    tokens = np.array([masking.predicted(record) for record in records])
    own = RecordScores(users=users, losses=losses, tokens=tokens)
    return Evaluation(float(losses.sum() / tokens.sum()), int(tokens.sum()), records=own)


def row_losses(stack: Stack, losses: Tensor) -> np.ndarray:
    """(rows,) float64: sums of a stack's (predicted tokens,) losses."""
    counts = stack.predicted()
    rows = np.repeat(np.arange(len(counts)), counts)
    return np.bincount(rows, losses.double().cpu().numpy())


def _classified(
    model: LanguageModel,
    adapter: Tensor,
    stacks: Iterable[Stack],
    users: np.ndarray,
    records: list[np.ndarray],
) -> Evaluation:
    """Loss and accuracy; a record's class is its last token."""
    count = len(records)
    losses, right = np.zeros(count), np.zeros(count, bool)
    for stack in stacks:
        logits, true = model.class_logits(adapter, model.load(stack))
        nll = torch.nn.functional.cross_entropy(logits.double(), true, reduction="none")
        losses[stack.lanes] = nll.cpu().numpy()
        right[stack.lanes] = (logits.argmax(1) == true).cpu().numpy()
    classes = np.array([record[-1] for record in records])
    tokens = np.ones(count, np.int64)
    return Evaluation(
        loss=float(losses.mean()),
        tokens=count,
        accuracy=float(right.mean()),
        majority=int(np.bincount(classes).max()) / count,
        records=RecordScores(users=users, losses=losses, tokens=tokens, right=right),
    )
