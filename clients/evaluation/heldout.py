"""Loss, perplexity and accuracy of an adapter on held-out users, who are declared public."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from userdp.clients.batching import device_batches, packed_rows, packing
from userdp.clients.batching.packed_rows import PackedStack
from userdp.clients.batching.packing import Stack, Unit
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.data import masking
from userdp.sim.data.population import Population


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordScores:
    """Scores of the single records of an evaluation, from which its figures are computed."""

    users: np.ndarray  # (records,) int64: index of the record's user
    losses: np.ndarray  # (records,) float64: NLL in nats, sum over the record's predicted tokens
    tokens: np.ndarray  # (records,) int64: predicted tokens, at least one
    right: np.ndarray | None = None  # (records,) bool: the true class has the largest logit


@dataclass(frozen=True)
class Evaluation:
    """Held-out scores of one adapter.

    In a classification the predicted tokens are the classes, one per record.
    """

    loss: float  # nats per predicted token: sum of NLL / sum of predicted tokens
    tokens: int  # predicted tokens
    accuracy: float | None = None  # fraction of records whose true class has the largest logit
    majority: float | None = None  # accuracy of always answering the most frequent true class
    token_accuracy: float | None = None  # fraction of predicted tokens that are the likeliest ones
    bits_per_byte: float | None = None  # sum of NLL in bits / bytes of text: for any tokenizer
    rouge_l: float | None = None  # mean F1 of answers to held-out prompts, at the end of a run
    records: RecordScores | None = field(default=None, compare=False, repr=False)

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite beyond the largest number."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def headline(self) -> tuple[str, float]:
        """Name and value of the main score: accuracy if there is one, else perplexity."""
        if self.accuracy is not None:
            return "accuracy", self.accuracy
        return "perplexity", self.perplexity

    def metrics(self, suffix: str = "") -> dict[str, float]:
        """The logged metrics, main score and loss first, with ``suffix`` behind their names."""
        name, value = self.headline
        logged = {name: value, "loss": self.loss}
        for name in ("token_accuracy", "bits_per_byte", "rouge_l"):
            if (value := getattr(self, name)) is not None:
                logged[name] = value
        return {f"heldout_{name}{suffix}": value for name, value in logged.items()}

    def better_than(self, other: Evaluation) -> bool:
        """Whether the accuracy is higher; without accuracies, whether the loss is lower."""
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
    text_bytes: int | None = None,
) -> Evaluation:
    """Score the learned tokens of every record of a population, each cut to ``seq_len`` tokens.

    Args:
        adapter: (D,) float32 on the model's device.
        max_tokens: positions of one forward pass.
        max_records: score only this many records, the first ones in the order of users; None
            scores all.
        text_bytes: of the learned tokens of all records, cut so; None leaves out bits per byte.

    Raises:
        ValueError: no record has a token to predict.
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
    if model.classes is not None:
        return _evaluate_classes(model, adapter, users, records, max_tokens)
    losses, hits = np.zeros(len(records)), 0.0
    for stack, (nll, right) in _scored_stacks(model, adapter, records, max_tokens):
        losses[stack.lanes] = record_losses(stack, nll)
        hits += float(right.double().sum())
    tokens = np.array([masking.predicted(record) for record in records])
    return Evaluation(
        loss=float(losses.sum() / tokens.sum()),
        tokens=int(tokens.sum()),
        token_accuracy=hits / int(tokens.sum()),
        bits_per_byte=float(losses.sum()) / math.log(2) / text_bytes if text_bytes else None,
        records=RecordScores(users=users, losses=losses, tokens=tokens),
    )


def record_losses(stack: Stack | PackedStack, losses: Tensor) -> np.ndarray:
    """(records,) float64: sum of the ``losses (predicted tokens,)`` of each record of a stack.

    Args:
        losses: on the CPU.
    """
    counts = stack.learned_tokens()
    records = np.repeat(np.arange(len(counts)), counts)
    return np.bincount(records, losses.double().numpy())


def _scored_stacks(
    model: LanguageModel, adapter: Tensor, records: list[np.ndarray], max_tokens: int
) -> Iterator[tuple[Stack | PackedStack, Tensor]]:
    """Stacks of all records, with scores that have arrived on the CPU.

    Yields:
        A stack, and (2, predicted tokens) float32: losses in nats, and 1 for the likeliest token.
    """
    # Each record is a unit of its own, so the lanes of a stack are the records' indices.
    stacks = _laid([[record] for record in records], max_tokens, packed=model.packed)
    pairs = device_batches.prefetch(stacks, lambda one: (one, model.load(one)), model.device)

    def queued() -> Iterator[tuple[Stack | PackedStack, Tensor, Callable[[], object]]]:
        for stack, batch in pairs:
            scores = torch.stack(model.token_scores(adapter, batch)).to("cpu", non_blocking=True)
            yield stack, scores, device_batches.reached(model.device)

    for stack, scores, wait in device_batches.delay_by_one(queued()):
        wait()
        yield stack, scores


def _laid(units: list[Unit], max_tokens: int, *, packed: bool) -> Iterator[Stack | PackedStack]:
    """Stacks of units, whose shapes nothing holds: the scores are of public users."""
    if packed:
        return packed_rows.stacks(units, max_tokens)
    return packing.stacks(units, max_tokens)


def _evaluate_classes(
    model: LanguageModel,
    adapter: Tensor,
    users: np.ndarray,
    records: list[np.ndarray],
    max_tokens: int,
) -> Evaluation:
    """Loss and accuracy of a classification; the last token of a record is its class."""
    count = len(records)
    losses, right = np.zeros(count), np.zeros(count, bool)
    for stack in packing.stacks([[record] for record in records], max_tokens):
        logits, labels = model.class_logits(adapter, model.load(stack))
        nll = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
        losses[stack.lanes] = nll.cpu().numpy()
        right[stack.lanes] = (logits.argmax(1) == labels).cpu().numpy()
    classes = np.array([record[-1] for record in records])
    tokens = np.ones(count, np.int64)
    return Evaluation(
        loss=float(losses.mean()),
        tokens=count,
        accuracy=float(right.mean()),
        majority=int(np.bincount(classes).max()) / count,
        records=RecordScores(users=users, losses=losses, tokens=tokens, right=right),
    )
