"""The Flower ClientApp: a node that hosts users and answers with one sum over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from torch import Tensor

from userdp.clients.batching import unit_records
from userdp.clients.masked_sums import MaskedSums
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common.errors import ConfigurationError, NodeError, located
from userdp.sim.data.population import Population
from userdp.sim.protocol import introduction, messages, secure_sum
from userdp.sim.protocol.contract import Assignment, Contract
from userdp.sim.protocol.introduction import Introduction
from userdp.sim.protocol.messages import ForeignMessageError

# Flower's names of a node's place in its federation, in ``node_config``.
PARTITION, PARTITIONS = "partition-id", "num-partitions"


@dataclass(frozen=True)
class Host:
    """What a node needs to answer: the model (one a process) and the records of its users."""

    model: LanguageModel
    population: Population
    engine: EngineSettings
    own_users: bool = False  # the population is of one node's users, and not of all nodes'
    population_id: str = ""  # the same for all nodes whose users are of one population
    masked_sums: MaskedSums | None = None  # if given, no sum leaves without masks

    def train(self, message: Message, place: Introduction | None = None) -> Message:
        """The reply to a train message: the clipped sum over the units that it names.

        Args:
            message: of `userdp.sim.protocol.messages.train_message`.
            place: of the node; None is the only node of a federation.

        Raises:
            ForeignMessageError: another strategy wrote the message.
            ConfigurationError: the message asks for masks that the node has not, or for no masks
                where it has some; or the node has answered this round.
            ValueError: a unit of the message is hosted by another node.
        """
        arrays, contract, assignment = messages.read_train(message)
        scale = messages.read_scale(message)
        place = self._checked(contract, place)
        cohort = cohort_update.cohort_sum(
            self.model,
            self._vector(arrays),
            unit_records.fetch(self.population, contract, self._hosted(assignment, place)),
            clip_norm=contract.clip_norm,
            clipping_rule=contract.clipping,
            local=cohort_update.LocalTraining(steps=contract.local_steps, lr=contract.local_lr),
            engine=self.engine,
            scale=None if scale is None else self._vector(scale),
            count_unclipped=contract.count_unclipped,
            keep_rows=contract.keep_rows,
            grid=contract.grid,
        )
        if self.masked_sums is None or place is None:
            return messages.train_reply(message, self.model.layout, cohort)
        given = [arrays] if scale is None else [arrays, scale]
        told = [self.model.layout.to_vector(record) for record in given]
        context = secure_sum.context(contract, told)
        vector = self.masked_sums.masked(cohort, contract, place, context)
        return messages.masked_reply(message, vector)

    def introduce(self, message: Message, place: Introduction) -> Message:
        """The reply to the question which part of the declared users this node hosts.

        Raises:
            ForeignMessageError: another strategy asks.
            ConfigurationError: the node has more users than its share of the declared positions,
                or keys of another federation.
        """
        users = messages.read_introduction_request(message)
        share = introduction.positions(users, place.partition, place.partitions)
        if self.own_users and len(self.population) > share:
            raise ConfigurationError(
                f"privacy.users={users}: a node has more users than its share of them, {share}; "
                "declare more, or spread the users evenly."
            )
        if self.masked_sums is not None:
            self.masked_sums.check_place(place)
        return messages.introduction(message, place)

    def place(self, context: Context) -> Introduction:
        """Where Flower's context of a node puts it; without partitions it is the only node."""
        partition, partitions = (
            int(context.node_config.get(name, default))
            for name, default in ((PARTITION, 0), (PARTITIONS, 1))
        )
        digest = self.model.layout.digest
        roster = self.masked_sums.roster.digest if self.masked_sums is not None else ""
        return Introduction(
            partition=partition,
            partitions=partitions,
            layout=digest,
            population=self.population_id,
            roster=roster,
        )

    def _checked(self, contract: Contract, place: Introduction | None) -> Introduction | None:
        """The place of the node, once node and server agree on whether its sum is masked."""
        if self.masked_sums is not None:
            return self.masked_sums.check(contract, place)
        if contract.secure_sum:
            raise ConfigurationError(
                "runtime.secure_sum=false: the server asks for a masked sum, and this node has no "
                "keys; set runtime.secure_sum=true and runtime.keys for it."
            )
        return place

    def _hosted(self, assignment: Assignment, place: Introduction | None) -> Assignment:
        """The assignment in slots of this node's population.

        Raises:
            ValueError: a user is hosted by another node.
        """
        if place is None:
            return assignment
        if np.any(assignment.users % place.partitions != place.partition):
            raise ValueError("A user of the message is hosted by another node.")
        if not self.own_users:
            return assignment
        return Assignment(assignment.users // place.partitions, assignment.slots)

    def _vector(self, arrays: ArrayRecord) -> Tensor:
        """(D,) float32 on the model's device."""
        vector = torch.from_numpy(self.model.layout.to_vector(arrays))
        return vector.float().to(self.model.device)


def client_app(host: Host, mods: Sequence[Mod] = ()) -> ClientApp:
    """The app that serves every node of this process.

    Args:
        host: model and records.
        mods: Flower's modifiers, around train messages.
    """
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        with _without_text():
            return host.train(message, host.place(context))

    @app.query()
    def introduce(message: Message, context: Context) -> Message:
        with _without_text():
            return host.introduce(message, host.place(context))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        raise ForeignMessageError(
            "this ClientApp is userdp's and evaluates no private user; userdp's PrivateStrategy "
            "scores held-out users at the server"
        )

    return app


@contextlib.contextmanager
def _without_text() -> Iterator[None]:
    """Errors without their texts, but for our own, which quote no record.

    Flower's runtimes send the text of an error to the server.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        raise NodeError(located(error)) from None
