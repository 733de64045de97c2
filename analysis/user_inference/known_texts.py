"""What the attacker knows: texts of users who took part, and of users who did not.

Participants are the training users without planted canaries; the others are held-out users of whom
no record trained. Both sides give texts by the same rule, or their texts alone would tell them
apart. It is the first of these that leaves a participant anything:

- `HELD_BACK`: records that were held out while others of the same user trained (a split by column);
- `NOT_SELECTED`: records beyond the k that the selection rule takes, where it takes the same k in
  every round; of the other users, too, those beyond the k that it would have taken;
- `ANY`: all records, where the rule draws anew in each round, or takes all: a known text may then
  be one that was trained on, which makes the attack easier than the paper's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from userdp.analysis.user_inference.options import Options
from userdp.clients.batching import unit_records
from userdp.server.mechanisms.base import USER
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings
from userdp.sim.data import masking, population, selection
from userdp.sim.data.corpus import Corpus
from userdp.sim.data.population import Population
from userdp.sim.protocol.contract import Contract
from userdp.sim.run import node_setup

HELD_BACK, NOT_SELECTED, ANY = "held back", "not selected", "any"
_Rule = Callable[[Population, int], np.ndarray]  # a user's known records, by number


@dataclass(frozen=True, kw_only=True)
class Side:
    """Users of one side with at least one known text each."""

    texts: Population  # their known texts alone, at most so many of each
    available: np.ndarray  # (users,) int64: texts of this kind that they have in all


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the attacker knows of both sides."""

    kind: str  # HELD_BACK, NOT_SELECTED or ANY
    members: Side
    others: Side


def known(settings: Settings, corpus: Corpus, options: Options) -> Known:
    """The known texts of participants and others.

    Args:
        settings: of the run.
        corpus: its records, canaries included.
        options: how many texts and users.

    Raises:
        ConfigurationError: no user was held out, or none has a text to know.
    """
    trained, held = corpus.train, corpus.heldout
    people = np.arange(len(trained) - settings.data.canaries)  # canaries are the last ones
    outside = np.flatnonzero(~np.isin(held.user_keys, trained.user_keys))
    both = np.flatnonzero(np.isin(held.user_keys, trained.user_keys[people]))
    every: _Rule = functools.partial(_usable, settings.model.seq_len)
    kind, rule, members = HELD_BACK, every, _side(held, both, every, options)
    beyond = _beyond_selected(settings, every)
    if not len(members.texts) and beyond is not None:
        kind, rule, members = NOT_SELECTED, beyond, _side(trained, people, beyond, options)
    if not len(members.texts):
        kind, rule, members = ANY, every, _side(trained, people, every, options)
    others = _side(held, outside, rule, options)
    if not len(members.texts) or not len(others.texts):
        raise ConfigurationError(
            f"data.split={settings.data.split}, data.holdout={settings.data.holdout}: the attack "
            "compares users who trained with users who did not, and one side has no text; hold out "
            "whole users with several records each, by data.split=user."
        )
    return Known(kind=kind, members=members, others=others)


def _usable(length: int, users: Population, user: int) -> np.ndarray:
    """(records,) int64: numbers of the user's records that have a token to predict in a cut."""
    numbers = users.record_numbers(user)
    usable = [bool(masking.predicted(record[:length])) for record in users.records(user)]
    kept: np.ndarray = numbers[np.array(usable, bool)]
    return kept


def _beyond_selected(settings: Settings, every: _Rule) -> _Rule | None:
    """A user's records that were never selected; None where any of them may have been."""
    rule, strategy = selection.RULES.find(settings.selection.rule), settings.strategy
    redrawn = rule.drawn_anew and strategy.mechanism.unit == USER
    if redrawn or rule.needs_perplexity or not rule.whole_records or not strategy.k:
        return None
    work = {**vars(node_setup.local_work(settings)), "redraw": False}
    contract = Contract(**work, round=0, unit=USER, clip_norm=math.inf, records_per_user=strategy.k)

    def beyond(users: Population, user: int) -> np.ndarray:
        # By content, so that a second copy of a selected text is not taken for a fresh one.
        taken = {sequence.tobytes() for sequence in unit_records.selected(users, contract, user)}
        numbers = every(users, user)
        texts = (users.tokens[slice(*users.record_offsets[n : n + 2])] for n in numbers)
        fresh = [text[: settings.model.seq_len].tobytes() not in taken for text in texts]
        kept: np.ndarray = numbers[np.array(fresh, bool)]
        return kept

    return beyond


def _side(source: Population, users: np.ndarray, rule: _Rule, options: Options) -> Side:
    """The users of a side who have a known text, and at most so many texts of each."""
    chosen: list[int] = []
    texts, available = [], []
    for user in rng.generator(options.seed, "attacked users").permutation(users).tolist():
        if len(chosen) == options.users:
            break
        key = int(source.user_keys[user])
        numbers = rule(source, user)
        if len(numbers):
            order = rng.generator(options.seed, "known texts", key).permutation(len(numbers))
            chosen.append(user)
            texts.append(numbers[order[: options.texts]])
            available.append(len(numbers))
    return Side(texts=_only(source, chosen, texts), available=np.array(available, np.int64))


def _only(source: Population, users: Sequence[int], numbers: Sequence[np.ndarray]) -> Population:
    """The population of these users with these records alone; the tokens are shared."""
    return replace(
        source,
        user_records=np.concatenate([np.empty(0, np.int64), *numbers]),
        user_offsets=population.offsets([len(owned) for owned in numbers]),
        user_keys=source.user_keys[np.array(users, np.int64)],
    )
