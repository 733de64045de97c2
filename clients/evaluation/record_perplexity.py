"""Perplexity of every record under the public base model, for selection by perplexity."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from userdp.clients.batching import packing
from userdp.clients.batching.packing import Stack
from userdp.clients.evaluation import heldout
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.data import masking
from userdp.sim.data.population import Population


def scores(
    model: LanguageModel,
    population: Population,
    *,
    seq_len: int,
    max_tokens: int,
    tracked: Callable[[range], Iterable[int]] = iter,
) -> np.ndarray:
    """exp(mean NLL of the predicted tokens) of each stored record, cut to ``seq_len`` tokens.

    No adapter is attached, so a score depends on public weights and on the record alone (Chua et
    al., arXiv 2406.14322, section 4.2). A forward pass holds records of one user only: the last
    bits of a float depend on the shape of its batch, and with records of others in the batch they
    could change which records of this user are selected.

    Args:
        max_tokens: positions of one forward pass.
        tracked: iterates over the indices of the users, and may display progress.

    Returns:
        (records,) float32 in storage order; NaN for a record that has no token to predict, has an
        id outside the model's vocabulary, or belongs to no user.
    """
    result = np.full(len(population.record_offsets) - 1, np.nan, np.float32)
    for user in tracked(range(len(population))):
        cut = [record[:seq_len] for record in population.records(user)]
        usable = [i for i, record in enumerate(cut) if _can_score(record, model.vocabulary)]
        numbers = population.record_numbers(user)[usable]
        for stack in packing.stacks([[cut[i]] for i in usable], max_tokens):
            # Each record is packed as a unit of its own, so the lane of a row is its index.
            result[numbers[stack.lanes]] = np.exp(_mean_losses(model, stack))
    return result


def _can_score(record: np.ndarray, vocabulary: int) -> bool:
    """Whether a record (tokens,) has a token to predict, and only ids that the model can read."""
    return masking.predicted(record) > 0 and packing.in_vocabulary(record, vocabulary)


def _mean_losses(model: LanguageModel, stack: Stack) -> np.ndarray:
    """(rows,) float64 nats per predicted token, under the base model."""
    sums = heldout.record_losses(stack, model.token_losses(None, model.load(stack)).cpu())
    means: np.ndarray = sums / stack.learned_tokens()
    return means
