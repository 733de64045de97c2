"""The Flower ClientApp: a node that hosts users and answers with one sum over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from userdp.clients.batching import unit_records
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.sim.data.population import Population
from userdp.sim.protocol import messages


@dataclass(frozen=True)
class Host:
    """What a node needs to answer: the model (one a process) and the records of its users."""

    model: LanguageModel
    population: Population
    engine: EngineSettings

    def train(self, message: Message) -> Message:
        """The reply to a train message: the clipped sum over the units that it names."""
        arrays, contract, assignment = messages.read_train(message)
        scale = messages.read_scale(message)
        cohort = cohort_update.cohort_sum(
            self.model,
            self._vector(arrays),
            unit_records.fetch(self.population, contract, assignment),
            clip_norm=contract.clip_norm,
            clipping_rule=contract.clipping,
            local=cohort_update.LocalTraining(steps=contract.local_steps, lr=contract.local_lr),
            engine=self.engine,
            scale=None if scale is None else self._vector(scale),
            count_unclipped=contract.count_unclipped,
            keep_rows=contract.keep_rows,
            grid=contract.grid,
        )
        return messages.train_reply(message, self.model.layout, cohort)

    def _vector(self, arrays: ArrayRecord) -> Tensor:
        """(D,) float32 on the model's device."""
        vector = torch.from_numpy(self.model.layout.to_vector(arrays))
        return vector.float().to(self.model.device)


def client_app(host: Host) -> ClientApp:
    """The app that serves every node of this process."""
    app = ClientApp()

    @app.train()
    def train(message: Message, _: Context) -> Message:
        return host.train(message)

    return app
