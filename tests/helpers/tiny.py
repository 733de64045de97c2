"""Tiny random models, users of ragged records and whole runs over them, shared by the tests."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from userdp.analysis.audit import subject
from userdp.clients.app import Host
from userdp.clients.evaluation import record_perplexity
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training.memory import EngineSettings
from userdp.server.app import server_app
from userdp.server.budget import Budget
from userdp.server.checkpoint import Checkpoint
from userdp.server.ledger.ledger import Ledger, verify
from userdp.server.mechanisms.base import Mechanism, Release
from userdp.server.optimizers.schedules import learning_rate_factor
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.server.strategy import PrivateStrategy
from userdp.sim.common import rng
from userdp.sim.data.population import Population
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, Contract
from userdp.sim.runtime.in_process import InProcessGrid
from userdp.sim.tracking import tracker

VOCABULARY = 61


def base_model(family: str, seed: int = 0) -> torch.nn.Module:
    """A causal model of the family, a few thousand random weights."""
    shared = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    gated = {**layers, "intermediate_size": 24, "num_key_value_heads": 1}
    config = {
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=64, **shared
        ),
        "llama": lambda: transformers.LlamaConfig(**gated, **shared),
        "opt": lambda: transformers.OPTConfig(
            **layers, ffn_dim=24, max_position_embeddings=64, word_embed_proj_dim=12, **shared
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**layers, intermediate_size=24, **shared),
        "qwen2": lambda: transformers.Qwen2Config(**gated, tie_word_embeddings=True, **shared),
        "qwen3": lambda: transformers.Qwen3Config(**gated, head_dim=8, **shared),
        "gemma2": lambda: transformers.Gemma2Config(**gated, head_dim=8, **shared),
        # The first layer sees four positions, the second all; each kind has rotary angles.
        "gemma3": lambda: transformers.Gemma3TextConfig(
            **gated, head_dim=8, sliding_window=4, sliding_window_pattern=2, **shared
        ),
    }[family]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # larger than an initialisation: every part matters
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def ragged_units(count: int, seed: int = 0, longest: int = 20) -> list[list[np.ndarray]]:
    """Units of one to five records of 2 to ``longest`` tokens."""
    source = np.random.default_rng(seed)
    return [
        [
            source.integers(0, VOCABULARY, source.integers(2, longest + 1))
            for _ in range(source.integers(1, 6))
        ]
        for _ in range(count)
    ]


@functools.cache
def language_model(family: str = "gpt2") -> LanguageModel:
    """The family's base model, rank 2 on every linear layer; shared, and never changed."""
    return LanguageModel(base_model(family), LoraSettings(r=2, alpha=4))


def people(count: int, seed: int = 0) -> Population:
    """Users of one to five ragged records, named user0, user1, ..."""
    units = ragged_units(count, seed)
    return Population.of({f"user{i}": [r.tolist() for r in unit] for i, unit in enumerate(units)})


def hosted(population: Population, part: int, nodes: int) -> Population:
    """The users whom node ``part`` of ``nodes`` hosts, as a population of their own."""
    users = range(part, len(population), nodes)
    records = {
        f"user{user}": [record.tolist() for record in population.records(user)] for user in users
    }
    return Population.of(records)


def scored(population: Population, family: str = "gpt2") -> Population:
    """The population with its records' perplexities under the family's base model."""
    figures = record_perplexity.scores(
        language_model(family), population, seq_len=16, max_tokens=128
    )
    return dataclasses.replace(population, perplexity=figures)


def masked_units(count: int, seed: int = 0) -> list[list[np.ndarray]]:
    """Ragged units whose records begin with a prompt of any length; some tokens stay learned."""
    source = np.random.default_rng(seed)
    units = ragged_units(count, seed)
    for record in (record for unit in units for record in unit):
        record[: source.integers(0, len(record))] ^= -1  # ~token: given, not learned
    return units


WORK = dataclasses.replace(subject.WORK, redraw=True, resample=True, max_tokens=16)


def contract(mechanism: Mechanism, **changes: Any) -> Contract:
    """What a run of the mechanism asks of its nodes."""
    return dataclasses.replace(mechanism.contract(0, WORK), **changes)


class WatchedGrid(InProcessGrid):
    """Keeps every message, and calls ``before(message)`` ahead of its delivery."""

    def __init__(self, app: ClientApp, nodes: int, before: Callable[[Message], None]) -> None:
        super().__init__(app, nodes)
        self.sent: list[Message] = []
        self._before = before

    def send_and_receive(self, messages, *, timeout=None):
        return super().send_and_receive(map(self._watched, messages))

    def _watched(self, message: Message) -> Message:
        self.sent.append(message)
        self._before(message)
        return message


class WatchedMechanism:
    """Keeps every sum that a mechanism releases; ``cohort`` takes the place of its coins.

    ``watched`` is of the mechanism's own class and has its fields; its methods call those of here.
    """

    def __init__(self, mechanism: Mechanism, cohort: Assignment | None) -> None:
        self._cohort = cohort
        self.sums: list[np.ndarray] = []  # each (D,), before noise
        self.means: list[np.ndarray] = []  # each (D,), as released
        self.bits: list[float] = []  # each the sum of clip bits, before noise
        self.rows: list[np.ndarray | None] = []  # each (units, D), where the mechanism asks for it
        self.releases: list[Release] = []
        self._watch(mechanism)

    def _watch(self, mechanism: Mechanism) -> Mechanism:
        self._mechanism, self.watched = mechanism, copy.copy(mechanism)
        for name in ("draw", "release", "after"):
            call = functools.partial(self._called, name)
            object.__setattr__(self.watched, name, call)  # mechanisms are frozen
        return self.watched

    def _called(self, name: str, *arguments: Any) -> Any:
        return getattr(self, name)(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mechanism, name)

    def draw(self, stream: rng.SecretStream, number: int) -> Assignment:
        return self._mechanism.draw(stream, number) if self._cohort is None else self._cohort

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        self.sums.append(cohort.total.copy())
        self.bits.append(cohort.unclipped_bits)
        self.rows.append(cohort.rows)
        self.releases.append(self._mechanism.release(cohort, stream, number))
        self.means.append(self.releases[-1].mean)
        return self.releases[-1]

    def after(self, release: Release) -> Mechanism:
        return self._watch(self._mechanism.after(release))


@dataclasses.dataclass
class Federation:
    """A whole run over tiny users: host, grid, strategy and ledger."""

    host: Host
    grid: WatchedGrid
    mechanism: WatchedMechanism
    strategy: PrivateStrategy
    ledger: Ledger
    path: Path  # of the ledger's file

    def run(self, rounds: int = 1) -> np.ndarray:
        """The adapter (D,) after so many more rounds; the ledger is closed afterwards."""
        app = server_app(self.strategy, rounds, lambda *_: None)
        with self.ledger:
            app(self.grid, Context(0, 0, {}, RecordDict(), {}))
        return self.strategy.optimizer.adapter

    @property
    def total(self) -> np.ndarray:
        """(D,) sum before noise of the last round."""
        return self.mechanism.sums[-1]

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def federation(
    folder: Path,
    mechanism: Mechanism,
    population: Population,
    *,
    nodes: int = 1,
    model: LanguageModel | None = None,
    cohort: Assignment | None = None,
    replay_seed: int | None = 0,
    budget: int = 1000,
    optimizer: Callable[[list[torch.Tensor]], torch.optim.Optimizer] | None = None,
    train: Callable[[Host, Message], Message] = Host.train,
    before: Callable[[Message], None] = lambda _: None,
    drop_failed_nodes: bool = False,
    resume: bool = False,
    **work_changes: Any,
) -> Federation:
    """A strategy and its grid over a population; with ``resume``, from the folder's checkpoint.

    Args:
        cohort: who takes part in every round, instead of the mechanism's coins.
        train: what a node does with a message.
    """
    host = Host(model or language_model(), population, EngineSettings(max_tokens=128))
    layout, path = host.model.layout, folder / "ledger.jsonl"
    factor = learning_rate_factor("constant", 0, 10)
    rounds_optimizer = ServerOptimizer(
        host.model.initial.numpy(), optimizer or (lambda p: torch.optim.SGD(p, lr=1.0)), factor
    )
    stored = Checkpoint.load(folder, layout.digest) if resume else None
    if stored:
        rounds_optimizer.restore(stored.optimizer)
        mechanism = mechanism.restored(stored.mechanism)
    header = {"test": True}
    head = stored.ledger_head if stored else None
    if resume:
        account = verify(path)
        done = set(range(1, account.rounds + 1)) - set(account.unfinished)
        released = max(done | {stored.round if stored else 0})
        digest = stored.secrets if stored else None
        bounds = {"released": released, "intended": account.rounds}
        mechanism.load_secrets(folder, layout.size, digest=digest, **bounds)
    ledger = Ledger.resume(path, header, head) if resume else Ledger.create(path, header)
    app = ClientApp()
    app.train()(lambda message, _: train(host, message))
    watched = WatchedMechanism(mechanism, cohort)
    strategy = PrivateStrategy(
        mechanism=watched.watched,
        work=dataclasses.replace(WORK, **work_changes),
        layout=layout,
        ledger=ledger,
        budget=Budget(rounds=budget, epsilon_after=float),
        optimizer=rounds_optimizer,
        secrets=rng.Secrets(replay_seed=replay_seed),
        tracker=tracker.NullTracker(),
        checkpoints=folder,
        drop_failed_nodes=drop_failed_nodes,
    )
    return Federation(host, WatchedGrid(app, nodes, before), watched, strategy, ledger, path)


def everyone(count: int, k: int | None = None) -> Assignment:
    """The cohort of all users, or of all k slots of all users."""
    if k is None:
        return Assignment(np.arange(count), np.empty(0, np.int64))
    return Assignment(*divmod(np.arange(count * k), k))
