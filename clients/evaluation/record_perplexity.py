"""Perplexity of every record under the public base model: what selection by perplexity sorts by."""

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

    The adapter is off, so a score depends on public weights and the record (Chua et al., arXiv
    2406.14322, section 4.2). No forward pass mixes users: the last bits of a float depend on the
    shape of its batch, and could otherwise turn another user's selection around.

    Args:
        tracked: passes on the users' slots, and may show how far they are.

    Returns:
        (records,) float32 by stored record; NaN where nothing is to be predicted, where the model
        does not know a token, or where no user owns the record.
    """
    result = np.full(len(population.record_offsets) - 1, np.nan, np.float32)
    for user in tracked(range(len(population))):
        cut = [record[:seq_len] for record in population.records(user)]
        usable = [i for i, record in enumerate(cut) if _usable(record, model.vocabulary)]
        numbers = population.record_numbers(user)[usable]
        for stack in packing.stacks([[cut[i]] for i in usable], max_tokens):
            # Every record is a unit of its own, so a row's lane says which record it is.
            result[numbers[stack.lanes]] = np.exp(_mean_losses(model, stack))
    return result


def _usable(record: np.ndarray, vocabulary: int) -> bool:
    return masking.predicted(record) > 0 and packing.known(record, vocabulary)


def _mean_losses(model: LanguageModel, stack: Stack) -> np.ndarray:
    """(rows,) float64 nats a predicted token."""
    return (
        heldout.row_losses(stack, model.token_losses(None, model.load(stack))) / stack.predicted()
    )
