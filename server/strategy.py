"""The round, written once: a Flower strategy over any mechanism.

1. Ask the ledger whether the budget holds; stop before touching data if it does not.
2. Draw the cohort from the mechanism's secret coins.
3. Write the intent, then send one message to each node that hosts sampled units.
4. Add the nodes' sums, each once, holding one reply at a time.
5. Release: noise once, divide by the public m, step the server optimiser.
6. Store the release with the clip norm that follows from it, mark it done, log what may be logged.

Evaluation is Flower's: ``start(..., evaluate_fn=...)`` calls it after each round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from userdp.server.aggregation import Aggregation
from userdp.server.budget import Budget
from userdp.server.checkpoint import Checkpoint
from userdp.server.ledger.ledger import Ledger
from userdp.server.mechanisms.base import Mechanism, Release
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.sim.common import rng
from userdp.sim.protocol import messages
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, LocalWork
from userdp.sim.protocol.layout import Layout
from userdp.sim.tracking import metric_kinds
from userdp.sim.tracking.tracker import Tracker


class BudgetSpentError(Exception):
    """The next round would exceed the budget; nothing was sent."""


class HaltedError(Exception):
    """The mechanism releases nothing more; nothing was sent."""


class NodeFailedError(Exception):
    """A node did not answer, twice: the run stops before the release and can be resumed."""


class PrivateStrategy(Strategy):
    """Flower strategy that releases a mechanism's noised mean once a round."""

    def __init__(
        self,
        *,
        mechanism: Mechanism,
        work: LocalWork,
        layout: Layout,
        ledger: Ledger,
        budget: Budget,
        optimizer: ServerOptimizer,
        secrets: rng.Secrets,
        tracker: Tracker,
        checkpoints: Path,
        drop_failed_nodes: bool = False,
    ) -> None:
        self.mechanism, self.work, self.layout = mechanism, work, layout
        self.ledger, self.budget, self.optimizer = ledger, budget, optimizer
        self.secrets, self.tracker, self.checkpoints = secrets, tracker, checkpoints
        self.drop_failed_nodes = drop_failed_nodes
        self.number = 0  # of the round under way, as the ledger counts
        self._sent: dict[int, Message] = {}
        self._grid: Grid | None = None
        self._started = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Guard, coins, intent, messages: in this order.

        Raises:
            HaltedError, BudgetSpentError: before any coin is drawn.
        """
        if self.mechanism.halted:
            raise HaltedError(f"The mechanism halted in round {self.ledger.next_round - 1}.")
        if self.ledger.rounds_intended >= self.budget.rounds:
            raise BudgetSpentError(f"The budget holds {self.budget.rounds} rounds; all are spent.")
        self._started, self._grid = time.perf_counter(), grid
        self.number = self.ledger.next_round
        assignment = self.mechanism.draw(self.secrets.stream("cohort", self.number), self.number)
        self.ledger.intend(self.number, self.mechanism.ledger_event(), self.mechanism.queries())
        self._sent = dict(self._messages(arrays, assignment, sorted(grid.get_node_ids())))
        return list(self._sent.values())

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Add up the replies, release, store, log; returns the new adapter and no metrics.

        Raises:
            NodeFailedError: a node failed twice; nothing is released.
        """
        cohort = self._aggregated(replies)
        noise = self.secrets.stream("noise", self.number)
        release = self.mechanism.release(cohort, noise, self.number)
        figures = {"learning_rate": self.optimizer.learning_rate, **self._figures(release)}
        if not release.halted:
            self.optimizer.step(release.mean, release.noise_std)
        self.mechanism = self.mechanism.after(release)
        self.ledger.done(self.number, self._store())
        simulated = {**self._simulation_only(cohort.figures), **release.simulation_only}
        self.tracker.log(self.number, figures, simulation_only=simulated)
        return self.layout.to_arrays(self.optimizer.adapter), MetricRecord()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No message: private users are never scored."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        return None

    def summary(self) -> None:
        """Nothing: the run prints its own start-up block."""

    def _messages(
        self, arrays: ArrayRecord, assignment: Assignment, nodes: list[int]
    ) -> Iterable[tuple[int, Message]]:
        """One message for each node that hosts sampled units; a user's node is slot mod nodes."""
        contract = self.mechanism.contract(self.number, self.work)
        scale = self.optimizer.scale
        scaling = None if scale is None else self.layout.to_arrays(scale)
        homes = assignment.users % len(nodes)
        for home in np.unique(homes).tolist():
            here = homes == home
            slots = assignment.slots[here] if len(assignment.slots) else assignment.slots
            part = Assignment(assignment.users[here], slots)
            yield nodes[home], messages.train_message(nodes[home], arrays, contract, part, scaling)

    def _aggregated(self, replies: Iterable[Message]) -> CohortSum:
        """Sum over nodes; a node that failed is asked once more."""
        aggregation = Aggregation.empty(
            self.layout.size,
            count_unclipped=self.mechanism.adaptive is not None,
            keep_rows=self.mechanism.keeps_rows,
        )
        failed = self._add(aggregation, replies)
        if failed and self._grid is not None:
            again = [self._sent[node] for node in failed]
            failed = self._add(aggregation, self._grid.send_and_receive(again))
        missing = sorted(self._sent)
        if missing and not self.drop_failed_nodes:
            raise NodeFailedError(
                f"Round {self.number}: {len(missing)} node(s) failed twice; nothing was released. "
                "Mend the cause and resume the run: the round's intent stays spent."
            )
        return aggregation.cohort()

    def _add(self, aggregation: Aggregation, replies: Iterable[Message]) -> list[int]:
        """Add the replies in place; returns the nodes that failed or were silent."""
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                continue
            if node not in self._sent or reply.metadata.group_id != str(self.number):
                raise ValueError(f"Round {self.number}: a node's second reply, or an old one.")
            aggregation.add(node, messages.read_reply(reply, self.layout))
            del self._sent[node]
        return sorted(self._sent)

    def _store(self) -> str:
        """Secrets first: a stored release without the noise that goes on from it is a dead end."""
        self.mechanism.store_secrets(self.checkpoints)
        state = Checkpoint(
            self.number,
            self.ledger.head,
            self.layout.digest,
            self.optimizer.state(),
            self.mechanism.state(),
        )
        return state.save(self.checkpoints)

    def _figures(self, release: Release) -> dict[str, float]:
        """Public and released figures of the round."""
        mechanism, size = self.mechanism, len(release.mean)
        noise = release.noise_std
        norm = float(np.linalg.norm(release.mean))
        unclipped = release.unclipped_fraction
        signal = math.sqrt(max(0.0, norm**2 - size * noise**2))
        private = {
            "epsilon": self.budget.epsilon_after(self.ledger.rounds_intended),
            "clip_norm": mechanism.clip_norm,
            "noise_std": noise * mechanism.expected_units,
            "noise_std_on_mean": noise,
            "signal_to_noise": signal / (noise * math.sqrt(size)) if noise else math.inf,
        }
        return {
            "release_norm": norm,
            "signal_norm": signal,
            **({} if unclipped is None else {"unclipped_fraction": unclipped}),
            **release.released,
            **(private if mechanism.private else {}),
        }

    def _simulation_only(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The clients' figures, each as the metric table says, and the length of the round."""
        seconds = time.perf_counter() - self._started
        return {**metric_kinds.from_sums(sums), "seconds_round": seconds}
