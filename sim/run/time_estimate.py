"""Estimates how long a run will take, from the held-out users, who are declared public.

What a cohort computes is counted on held-out users: their records are cut, selected and laid into
stacks as those of users who train. A few of them are trained and scored by the run's own code, for
the time of a position. No record of a user who trains is read.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from userdp.clients.batching import packing
from userdp.clients.batching.packed_rows import PackedStack
from userdp.clients.batching.packing import Unit
from userdp.clients.evaluation import heldout
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import cohort_update
from userdp.clients.training.cohort_update import LocalTraining
from userdp.clients.training.memory import EngineSettings
from userdp.server.mechanisms.base import RECORD_SLOT
from userdp.sim.config.settings import Settings
from userdp.sim.data import masking
from userdp.sim.data.population import Population
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.planning.planner import Plan

_USERS = 512  # of whom positions are counted, at most
_LONG_ENOUGH = 2.0  # seconds of a measurement: the next one would take twice as long


@dataclass(frozen=True)
class _Pace:
    """Seconds of a position, padding included, on one device."""

    training: float
    scoring: float


def minutes(
    settings: Settings, plan: Plan, inputs: RunInputs, engine: EngineSettings, scores: int = 0
) -> float | None:
    """Minutes of the rounds and of the scores on held-out users; None where nobody can know.

    Args:
        scores: scores of the held-out users beside those after rounds.
    """
    k, length = plan.mechanism.records_per_user, settings.model.seq_len
    whole_users = settings.data.split == "user"
    if k == 0 and not whole_users:  # users' other records train: how many there are is private
        return None
    users = _units(inputs.corpus.heldout, k, length, whole_users=whole_users)
    if not users:  # the score of the base model refuses such data by name
        return None
    if settings.strategy.resample and plan.mechanism.unit == RECORD_SLOT:
        users = [list(itertools.islice(itertools.cycle(unit), k)) for unit in users]
    pace: _Pace = inputs.cached(
        ("pace", repr(settings.model.lora), repr(settings.engine), k, length, engine.max_tokens),
        lambda: _pace(inputs.model, users, engine),
    )
    devices = len({model.device for model in engine.models_of(inputs.model)})
    cohort = list(itertools.islice(itertools.cycle(users), min(round(settings.cohort), _USERS)))
    positions = settings.cohort * _positions(inputs.model, cohort, engine) / len(cohort)
    trained = plan.rounds * positions * settings.strategy.local_steps / devices
    scores += -(-plan.rounds // settings.eval_every)
    scored = scores * _scored(inputs.corpus.heldout, length)
    return (trained * pace.training + scored * pace.scoring) / 60


def _units(population: Population, k: int, length: int, *, whole_users: bool) -> list[Unit]:
    """The first k records of each held-out user, all of them for 0; with one record at least.

    Args:
        whole_users: whether a held-out user has all their records here. Else each k records, of
            whichever user, count as a user's.
    """
    records: list[Unit] = [
        [cut for record in population.records(user) if masking.predicted(cut := record[:length])]
        for user in range(len(population))
    ]
    if not whole_users:
        every = list(itertools.chain.from_iterable(records))[: _USERS * k]
        return [every[start : start + k] for start in range(0, len(every), k)]
    return [unit[: k or None] for unit in records if unit][:_USERS]


def _positions(model: LanguageModel, users: Sequence[Unit], engine: EngineSettings) -> int:
    """Positions of the stacks in which these users are trained, padding included."""
    return sum(
        stack.inputs.size if isinstance(stack, PackedStack) else stack.learned.size
        for block in packing.blocks(users, engine.max_lanes)
        for stack in model.stacks(block, engine.max_tokens)
    )


def _scored(population: Population, length: int) -> int:
    """Positions of the held-out records, of which padding is little where they are many."""
    lengths = population.record_offsets[1:] - population.record_offsets[:-1]
    return int((lengths[population.user_records].clip(max=length) - 1).clip(min=0).sum())


def _pace(model: LanguageModel, users: Sequence[Unit], engine: EngineSettings) -> _Pace:
    adapter = model.initial.to(model.device)
    alone = EngineSettings(max_tokens=engine.max_tokens, max_lanes=engine.max_lanes)

    def train(some: Sequence[Unit]) -> int:
        local = LocalTraining()
        cohort_update.cohort_sum(model, adapter, some, clip_norm=1.0, local=local, engine=alone)
        return _positions(model, some, alone)

    def score(some: Sequence[Unit]) -> int:
        records = [record.tolist() for unit in some for record in unit]
        scored = Population.of({"public": records})
        length = max(map(len, records))
        heldout.evaluate(model, adapter, scored, seq_len=length, max_tokens=engine.max_tokens)
        return _scored(scored, length)

    full = engine.max_tokens
    return _Pace(_seconds(train, users, full), _seconds(score, users, full))


def _seconds(compute: Callable[[Sequence[Unit]], int], users: Sequence[Unit], full: int) -> float:
    """Seconds of a position: of twice as many users each time, until it takes long enough.

    Args:
        compute: trains or scores users; returns the positions.
        full: positions of a full stack, which are enough: a smaller one takes longer for each.
    """
    count = 1
    while True:
        begin = time.perf_counter()
        positions = compute(users[:count])
        seconds = time.perf_counter() - begin
        if seconds > _LONG_ENOUGH or positions >= full or count >= len(users):
            return seconds / positions
        count *= 2
