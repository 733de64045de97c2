"""Our sides of `userdp bench`: a whole private round that clips users, or record slots.

Sampling, ledger, message, clipped sum, noise, step and checkpoint are those of `userdp run`. The
sampling rate is 1, so that every repetition does the same work.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from flwr.app import ConfigRecord

from userdp.analysis.benchmark.peers.side import Side
from userdp.analysis.benchmark.peers.work import Spec, Work
from userdp.clients.app import Host, client_app
from userdp.clients.models import acceleration
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import memory
from userdp.server.budget import Budget
from userdp.server.ledger.ledger import Ledger
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.server.strategy import PrivateStrategy
from userdp.sim.common import rng
from userdp.sim.data import population
from userdp.sim.data.population import Population
from userdp.sim.protocol import messages
from userdp.sim.protocol.contract import LocalWork
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.runtime.in_process import InProcessGrid
from userdp.sim.tracking import tracker


def user_wise(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve rounds that clip each user's update."""
    _serve_rounds(work, serve, UserWise)


def group_privacy(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve rounds that clip each record's update."""
    _serve_rounds(work, serve, GroupPrivacy)


def _serve_rounds(work: Work, serve: Callable[[Side], None], kind: type[Mechanism]) -> None:
    """Serve rounds over all users, each from where the last one ended."""
    with tempfile.TemporaryDirectory() as folder:
        adam = functools.partial(torch.optim.Adam, lr=work.spec.learning_rate)
        rounds = Rounds(work, kind, Path(folder), adam)
        details = {name: getattr(rounds.engine, name) for name in ("max_tokens", "max_lanes")}
        serve(Side(go=rounds.go, clipped_sum=rounds.clipped_sum, details=details))


class Rounds:
    """Private rounds over all users of a work, each from where the last one ended.

    Args:
        kind: of mechanism, whose privacy unit is a user or a record.
        folder: for ledgers and checkpoints.
        make: builds the optimiser of the server.
    """

    def __init__(
        self,
        work: Work,
        kind: type[Mechanism],
        folder: Path,
        make: Callable[[list[torch.Tensor]], torch.optim.Optimizer],
    ) -> None:
        spec = work.spec
        self._model = LanguageModel(work.base(), LoraSettings(r=spec.rank, alpha=2 * spec.rank))
        self.engine = fitted_engine(self._model, spec)
        host = Host(self._model, users(work), self.engine)
        self._grid = InProcessGrid(client_app(host), nodes=1)
        start = work.adapter(self._model.layout.size)
        self._arrays = self._model.layout.to_arrays(start)
        mechanism = _mechanism(work, kind)
        self._timed, self._untimed = (
            _strategy(spec, mechanism, self._model, ServerOptimizer(start, make, lambda _: 1.0), to)
            for to in (folder / "timed", folder / "untimed")
        )

    @property
    def adapter(self) -> np.ndarray:
        """(D,) after the last round."""
        return self._model.layout.to_vector(self._arrays)

    def go(self) -> None:
        """One round."""
        requests = self._timed.configure_train(0, self._arrays, ConfigRecord(), self._grid)
        self._arrays, _ = self._timed.aggregate_train(0, self._grid.send_and_receive(requests))

    def clipped_sum(self) -> np.ndarray:
        """(D,) float64: the sum that a node of the next round sends, before noise."""
        requests = self._untimed.configure_train(0, self._arrays, ConfigRecord(), self._grid)
        (reply,) = self._grid.send_and_receive(requests)
        return messages.read_reply(reply, self._model.layout).total


def fitted_engine(model: LanguageModel, spec: Spec) -> memory.EngineSettings:
    """The engine settings that a run would choose on this machine, unless the spec sets them."""
    acceleration.checkpoint(model.module, spec.checkpointing)
    model.compile(spec.compile)
    model.pack(spec.packed)
    return memory.fitted(model, spec.length, spec.max_tokens, spec.max_lanes)


def users(work: Work) -> Population:
    """The users of the work as a population, which the clients read."""
    counts, lengths = work.counts, work.lengths
    return Population(
        tokens=work.tokens,
        record_offsets=population.offsets(lengths),
        user_records=np.arange(len(lengths)),
        user_offsets=population.offsets(counts),
        user_keys=np.arange(len(counts), dtype=np.uint64),
    )


def _mechanism(work: Work, kind: type[Mechanism]) -> Mechanism:
    return kind(
        users=len(work.counts),
        cohort=len(work.counts),
        records_per_user=int(work.counts.max()),
        clip_norm=work.spec.clip_norm,
        noise_multiplier=work.spec.noise_multiplier,
    )


def _strategy(
    spec: Spec,
    mechanism: Mechanism,
    model: LanguageModel,
    optimizer: ServerOptimizer,
    folder: Path,
) -> PrivateStrategy:
    folder.mkdir()
    work = LocalWork(
        selection="random",
        redraw=True,
        resample=False,
        max_tokens=spec.length,
        local_steps=1,
        local_lr=1.0,
        seed=0,
    )
    return PrivateStrategy(
        mechanism=mechanism,
        work=work,
        layout=model.layout,
        ledger=Ledger.create(RunFolder(folder).ledger, {}),
        budget=Budget(rounds=spec.rounds, epsilon_after=lambda _: 0.0),
        optimizer=optimizer,
        secrets=rng.Secrets(),
        tracker=tracker.NullTracker(),
        checkpoints=folder,
    )
