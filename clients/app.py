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
    """What a node has at hand: the model (one a process) and the users' records."""

    model: LanguageModel
    population: Population
    engine: EngineSettings

    def train(self, message: Message) -> Message:
        """Do what the contract in the message says, for the units it names."""
        arrays, contract, assignment = messages.read_train(message)
        layout = self.model.layout
        scale = messages.read_scale(message)
        result = cohort_update.cohort_sum(
            self.model,
            self._vector(arrays),
            unit_records.fetch(self.population, contract, assignment),
            clip_norm=contract.clip_norm,
            local=cohort_update.LocalTraining(steps=contract.local_steps, lr=contract.local_lr),
            engine=self.engine,
            scale=None if scale is None else self._vector(scale),
            keep_rows=contract.keep_rows,
        )
        bits = result.unclipped_bits if contract.count_unclipped else None
        rows = None if result.rows is None else result.rows.numpy()
        answer = messages.NodeSum(result.total.cpu().numpy(), simulation_only(result), bits, rows)
        return messages.train_reply(message, layout, answer)

    def _vector(self, arrays: ArrayRecord) -> Tensor:
        """(D,) float32 on the model's device."""
        vector = torch.from_numpy(self.model.layout.to_vector(arrays))
        return vector.float().to(self.model.device)


def simulation_only(result: cohort_update.CohortSum) -> dict[str, float]:
    """Sums over the node's units that no private run may log: the server adds them up."""
    return {
        "cohort_size": result.units,
        "failed_units": result.failed,
        "clipped_units": result.clipped,
        "update_norms": result.norms,
        "train_losses": result.losses,
        "records_used": result.records,
        "tokens_used": result.tokens,
    }


def client_app(host: Host) -> ClientApp:
    """One app serves every node of the process."""
    app = ClientApp()

    @app.train()
    def train(message: Message, _: Context) -> Message:
        return host.train(message)

    return app
