"""Stops a run that cannot train any more, before its next round is spent.

What is looked at is public or released: the server's state after its step, and one *public user*,
made of held-out records, whose update is computed as every private unit's is. Where that is not
finite, the others' are not either: the nodes then put zeros in their places, and a round releases
noise alone. How many private units failed is private, and plays no part here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch

from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.server import checkpoint
from userdp.server.mechanisms.base import Mechanism
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.protocol.contract import LocalWork
from userdp.sim.run.health import public_records

_RECORDS = 4  # of the public user, at most: it costs a round what one more unit costs


@dataclass(frozen=True, kw_only=True)
class PublicUser:
    """A user made of held-out records, and the local work that every unit does."""

    model: LanguageModel
    records: list[np.ndarray]
    work: LocalWork
    engine: EngineSettings

    @classmethod
    def of(cls, inputs: RunInputs, work: LocalWork, engine: EngineSettings) -> PublicUser:
        """The public user of a run."""
        records = public_records.first(inputs.corpus.heldout, work.max_tokens, _RECORDS)
        return cls(model=inputs.model, records=records, work=work, engine=engine)

    def fails(
        self, adapter: np.ndarray, mechanism: Mechanism, scale: np.ndarray | None = None
    ) -> bool:
        """Whether this user's update from an adapter is not finite.

        Args:
            adapter: (D,) float32, where the next round starts.
            mechanism: of the next round.
            scale: (D,) float32 of the next round's updates, if it has one.
        """
        contract, device = mechanism.contract(0, self.work), self.model.device
        cohort = cohort_update.cohort_sum(
            self.model,
            torch.from_numpy(adapter).to(device),
            [self.records],
            clip_norm=contract.clip_norm,
            clipping_rule=contract.clipping,
            local=cohort_update.LocalTraining(steps=contract.local_steps, lr=contract.local_lr),
            engine=self.engine,
            scale=None if scale is None else torch.from_numpy(scale).to(device),
        )
        return cohort.figures["failed_units"] > 0


def check_start(user: PublicUser, mechanism: Mechanism, adapter: np.ndarray, base: str) -> None:
    """Check, before anything is written, that a unit can be trained from the first adapter.

    Args:
        adapter: (D,) float32 before training.
        base: folder or hub name of the base model.

    Raises:
        ConfigurationError: the public user fails.
    """
    if user.fails(adapter, mechanism):
        raise ConfigurationError(
            f"model.path={base}: an update on held-out records is not finite, so every user's "
            f"would fail (strategy.local_lr={user.work.local_lr:g}, strategy.local_steps="
            f"{user.work.local_steps}, {user.model.dtype}); lower local_lr, raise the precision "
            "(model.dtype), or restore the model's weights."
        )


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Looks at a run after each of its rounds.

    Attributes:
        user: the public user.
        optimizer: of the server; holds the adapter.
        asked: the settings of the server's optimiser.
        rounds: that are planned.
    """

    user: PublicUser
    optimizer: ServerOptimizer
    asked: Mapping[str, Any]
    rounds: int

    def check_round(self, mechanism: Mechanism, spent: int) -> None:
        """Check that the next round, if there is one, can start from where the last one ended.

        Args:
            mechanism: of the next round.
            spent: rounds so far.

        Raises:
            StoppedError: it cannot; the run is over.
        """
        optimizer = self.optimizer
        if not checkpoint.is_finite(optimizer.state()):
            self._stop("the adapter or the state of its optimiser is not finite", spent)
        if spent >= self.rounds or mechanism.halted:
            return
        if mechanism.private and not 0 < mechanism.clip_norm < math.inf:
            self._stop(f"the clip norm has become {mechanism.clip_norm:g}", spent)
        if self.user.fails(optimizer.adapter, mechanism, optimizer.scale):
            self._stop("an update on held-out records is not finite", spent)

    def check_score(self, loss: float, spent: int) -> None:
        """Check the held-out loss, in nats per token, of the adapter that is scored and saved.

        Raises:
            StoppedError: it is not finite; the run is over.
        """
        if not math.isfinite(loss):
            self._stop(f"the held-out loss is {loss}", spent)

    def _stop(self, problem: str, spent: int) -> NoReturn:
        asked = self.asked
        rate = f"optimizer.lr={asked['lr']:g}" if "lr" in asked else f"optimizer={asked['name']}"
        raise StoppedError(
            f"the training diverged: {problem}; {spent} of {self.rounds} rounds are spent and no "
            f"other will be; start a new run with a smaller step than by {rate}, or with less "
            "noise."
        )
