"""Canary users with invented texts, trained by the real engine on the configured model.

- Sensitivity: the clipped sum over all of them, and without each of them in turn, under a clip norm
  so small that every unit is clipped. A lane that sees another one moves the sum by more than C.
- Epsilon: repeated rounds, as for vectors, whose canary moves the sum by the largest change found.
- One run: each canary is in or out by a secret coin, takes part by the mechanism's coins, and the
  adapter moves by the releases. The score of a canary adds up, over the rounds, the release along
  the canary's own clipped update at that round's adapter.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from userdp.analysis.audit import one_run, repeated
from userdp.analysis.audit.event_trials import Bench, Others
from userdp.analysis.audit.finding import Finding
from userdp.analysis.audit.one_run import Run
from userdp.analysis.audit.options import Options, Randomness
from userdp.analysis.audit.repeated import Tick
from userdp.analysis.audit.subject import Subject
from userdp.clients.batching import unit_records
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.server.mechanisms.base import RECORD_SLOT
from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings
from userdp.sim.data import selection
from userdp.sim.data.population import Population
from userdp.sim.data.synthetic import users
from userdp.sim.inputs import run_inputs
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, Contract, LocalWork
from userdp.sim.run import node_setup

RANDOM_CHECKS = 2
_MARGIN = 1e-3  # by which rounding of a shared stack may move a sum more than C
_ROUNDS = 10  # of the one run, at most
_SEED = 1 << 20  # of the texts; no run's users have these
_OFF = 0.02  # standard deviation of the adapter's distance from its start, where gradients vanish


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A model, canary users with invented texts, and what a unit does before its clip."""

    model: LanguageModel
    population: Population
    work: LocalWork
    settings: EngineSettings

    def sum(self, contract: Contract, assignment: Assignment, adapter: np.ndarray) -> CohortSum:
        """The clipped sum of the assigned units, as a node computes it.

        Args:
            contract: of the round.
            assignment: units of the population's users.
            adapter: (D,) float64.
        """
        return cohort_update.cohort_sum(
            self.model,
            torch.from_numpy(adapter).float().to(self.model.device),
            unit_records.fetch(self.population, contract, assignment),
            clip_norm=contract.clip_norm,
            clipping_rule=contract.clipping,
            local=cohort_update.LocalTraining(steps=contract.local_steps, lr=contract.local_lr),
            engine=self.settings,
            count_unclipped=contract.count_unclipped,
            keep_rows=contract.keep_rows,
            grid=contract.grid,
        )


def load(settings: Settings, options: Options) -> Engine:
    """The model of the settings, and users with invented texts.

    Raises:
        ConfigurationError: the model is missing or does not load, or the task has labels.
    """
    if settings.data.label is not None:
        raise ConfigurationError(
            f"data.label={settings.data.label}: canary texts have no labels; leave out "
            "audit.canaries=texts."
        )
    third_party.libraries()
    base = run_inputs.load_base(settings.model, settings.device, None, settings.seed)
    lora = settings.model.lora
    model = LanguageModel(
        base.module,
        LoraSettings(r=lora.r, alpha=lora.alpha, targets=lora.targets, seed=0),
        None,
    )
    encode = TokenizerEncode(base.tokenizer)
    population = Population.of(
        {users.user_id(i): encode(users.user_records(_SEED, i)) for i in range(options.users)}
    )
    work = node_setup.local_work(settings)
    if selection.RULES.find(work.selection).needs_perplexity:
        work = replace(work, selection="random")
    return Engine(
        model=model,
        population=population,
        work=work,
        settings=run_inputs.fit_engine(settings, model),
    )


def ticks(subject: Subject, options: Options) -> int:
    """How often the checks of texts tick, beside the repeated rounds."""
    return options.users + min(_ROUNDS, subject.rounds)


def checks(
    subject: Subject,
    engine: Engine,
    options: Options,
    randomness: Randomness,
    failure: float,
    tick: Tick,
) -> list[Finding]:
    """Sensitivity, epsilon of repeated rounds, and one run.

    Args:
        failure: probability that a correct mechanism is called broken by one check.
        tick: called as users, trials and rounds are over.
    """
    begin = time.monotonic()
    change = sensitivity(subject, engine, randomness, tick)
    moved = Finding.of_change(
        check="sensitivity, invented texts",
        threat="the real engine, with a user and without",
        largest=change,
        margin=_MARGIN,
        trials=f"{options.users} users",
        seconds=time.monotonic() - begin,
    )
    bench = replace(
        Bench.of(subject, options.dimension, Others.SILENT, randomness, takes_part=True),
        shift=change if moved.flagged else min(change, 1.0),
    )
    epsilon, _, _ = repeated.epsilon_check(bench, options, randomness, failure, tick)
    epsilon = replace(epsilon, check="a round it takes part in, invented texts")
    begin, rounds = time.monotonic(), min(_ROUNDS, subject.rounds)
    run = play(subject, engine, rounds, randomness, tick)
    guesses, cosines = one_run.findings(
        run, subject, rounds, failure, time.monotonic() - begin, "invented texts"
    )
    return [moved, epsilon, guesses, cosines]


def sensitivity(subject: Subject, engine: Engine, randomness: Randomness, tick: Tick) -> float:
    """Largest change of the clipped sum when one user leaves, over C and the user's units."""
    mechanism, count = subject.mechanism, len(engine.population)
    adapter = _adapter(engine, randomness)
    # Every user, in any group; the clip norm below may be far smaller than the grid's step.
    contract = replace(mechanism.contract(1, engine.work), groups=0, grid=0.0)
    norms = [_norm(engine, contract, _units(subject, [i]), adapter) for i in range(count)]
    contract = replace(contract, clip_norm=0.1 * float(np.median(norms)))
    whole = engine.sum(contract, _units(subject, range(count)), adapter).total
    largest = 0.0
    for user in range(count):
        others = [i for i in range(count) if i != user]
        rest = engine.sum(contract, _units(subject, others), adapter).total
        change = float(np.linalg.norm(whole - rest)) / contract.clip_norm
        largest = max(largest, change / mechanism.group_size)
        tick(1)
    return largest


def _norm(engine: Engine, contract: Contract, assignment: Assignment, adapter: np.ndarray) -> float:
    """Norm of a user's update before the clip; the smallest positive number where it is 0."""
    unclipped = replace(contract, clip_norm=float("inf"), keep_rows=False, count_unclipped=False)
    return float(np.linalg.norm(engine.sum(unclipped, assignment, adapter).total)) or 1e-300


def _adapter(engine: Engine, randomness: Randomness) -> np.ndarray:
    """(D,) a little off the initial adapter, where half of the gradient is zero."""
    initial = engine.model.initial.cpu().numpy().astype(np.float64)
    return np.asarray(initial + _OFF * randomness.own("adapter").standard_normal(len(initial)))


def _units(subject: Subject, positions: Sequence[int]) -> Assignment:
    """All units of these users."""
    chosen, k = np.asarray(positions, np.int64), subject.mechanism.group_size
    if subject.mechanism.unit == RECORD_SLOT:
        return Assignment(np.repeat(chosen, k), np.tile(np.arange(k), len(chosen)))
    return Assignment(chosen, np.empty(0, np.int64))


def play(subject: Subject, engine: Engine, rounds: int, randomness: Randomness, tick: Tick) -> Run:
    """One run whose only users with texts are the canaries that are in."""
    mechanism, own = copy.deepcopy(subject.mechanism), randomness.own("texts")
    count, adapter = len(engine.population), _adapter(engine, randomness)
    included = own.integers(0, 2, count) == 1
    scores, cosines = np.zeros(count), np.zeros(count)
    stream = randomness.secret("texts")
    for number in range(1, rounds + 1):
        contract = mechanism.contract(number, engine.work)
        directions = _directions(subject, engine, replace(contract, groups=0, grid=0.0), adapter)
        assignment = _present(mechanism.draw(stream, number), included)
        release = mechanism.release(engine.sum(contract, assignment, adapter), stream, number)
        scores += directions @ release.mean / (release.noise_std or 1.0)
        cosines += directions @ release.mean / (np.linalg.norm(release.mean) or 1.0) / rounds
        adapter = adapter + release.mean
        mechanism = mechanism.after(release)
        tick(1)
        if release.halted:
            break
    return Run(scores=scores, included=included, cosines=cosines, dimension=None)


def _directions(
    subject: Subject, engine: Engine, contract: Contract, adapter: np.ndarray
) -> np.ndarray:
    """(canaries, D) direction of each canary's clipped update at this adapter."""
    plain = replace(contract, keep_rows=False, count_unclipped=False)
    sums = [
        engine.sum(plain, _units(subject, [i]), adapter).total
        for i in range(len(engine.population))
    ]
    return np.stack([total / (np.linalg.norm(total) or 1.0) for total in sums])


def _present(assignment: Assignment, included: np.ndarray) -> Assignment:
    """The assigned units of canaries that are in; all other positions have no user."""
    present = assignment.users < len(included)
    present[present] = included[assignment.users[present]]
    slots = assignment.slots[present] if len(assignment.slots) else assignment.slots
    return Assignment(assignment.users[present], slots)
