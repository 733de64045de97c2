"""Flower strategy that runs the rounds of any mechanism.

1. Check that the budget allows a round; if not, stop before any data is used.
2. Draw the cohort with the mechanism's secret coins.
3. Write the intent to the ledger, then send one message to each node that hosts sampled units.
4. Check each node's sum against what it was asked, and add it up, once, with one reply in memory at
   a time.
5. Release: add noise once, divide by the public m, step the server optimiser.
6. Store the state after the release, mark the round as done in the ledger, log its metrics.

Flower evaluates: ``start(..., evaluate_fn=...)`` calls the function after each round.
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

from userdp.server import secure_sum
from userdp.server.aggregation import Aggregation
from userdp.server.budget import Budget
from userdp.server.checkpoint import Checkpoint
from userdp.server.ledger.ledger import Ledger
from userdp.server.mechanisms import release_check
from userdp.server.mechanisms.base import Mechanism, Release
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.server.reply_check import Asked, ReplyRefusedError
from userdp.server.roll_call import RollCall, RollCallError
from userdp.server.secure_sum import MaskedAggregation
from userdp.server.time_limit import RuntimeFailedError
from userdp.sim.common import rng
from userdp.sim.protocol import messages
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, LocalWork
from userdp.sim.protocol.layout import Layout
from userdp.sim.tracking import metric_kinds
from userdp.sim.tracking.tracker import Tracker

_Sum = Aggregation | MaskedAggregation


class BudgetSpentError(Exception):
    """The next round would exceed the budget; nothing was sent."""


class HaltedError(Exception):
    """The mechanism has halted and releases nothing more; nothing was sent."""


class NodeFailedError(Exception):
    """A node failed twice or answered wrongly: nothing is released, the run can be resumed."""


class PrivateStrategy(Strategy):
    """Flower strategy that releases a mechanism's noised mean once a round.

    Args:
        mechanism: of the next round; replaced after each release.
        work: what a unit computes before its clip.
        layout: names and shapes of the adapter's D parameters.
        ledger: open for writing.
        budget: how many intents the ledger may hold.
        optimizer: holds the adapter.
        secrets: streams for coins and noise.
        tracker: takes the metrics.
        checkpoints: folder of the checkpoint and of the mechanism's secrets.
        drop_failed_nodes: release without a node that failed twice, instead of stopping. A wrong
            answer always stops the run.
        timeout: seconds in which the nodes have to answer; None: no limit.
        roll_call: finds out which node hosts which users; None takes the nodes as they are, in the
            order of their ids.
        secure_sum: ask every node in every round, and read the sum over all of them alone.
    """

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
        timeout: float | None = None,
        roll_call: RollCall | None = None,
        secure_sum: bool = False,
    ) -> None:
        self.mechanism, self.work, self.layout = mechanism, work, layout
        self.ledger, self.budget, self.optimizer = ledger, budget, optimizer
        self.secrets, self.tracker, self.checkpoints = secrets, tracker, checkpoints
        self.drop_failed_nodes, self.timeout = drop_failed_nodes, timeout
        self.roll_call, self.secure_sum = roll_call, secure_sum
        self.number = 0  # the ledger's number of the current round
        self._sent: dict[int, Asked] = {}  # by node, until its reply was added
        self._answered: set[int] = set()  # nodes whose reply was added in this round
        self._grid: Grid | None = None
        self._started = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Check the budget, draw the cohort, write the intent; returns the messages.

        Args:
            server_round: Flower's number of the round, which is not used: after a resume the
                ledger's differs.
            arrays: the global adapter.
            config: not used.
            grid: of the nodes.

        Raises:
            HaltedError: the mechanism has halted; no coin is drawn.
            BudgetSpentError: the budget allows no further round; no coin is drawn.
            NodeFailedError: the grid fails, or has not the nodes of the run; no coin is drawn.
        """
        if self.mechanism.halted:
            raise HaltedError(f"The mechanism halted in round {self.ledger.next_round - 1}.")
        if self.ledger.rounds_intended >= self.budget.rounds:
            raise BudgetSpentError(f"The budget holds {self.budget.rounds} rounds; all are spent.")
        nodes = self._nodes(grid)
        self._started, self._grid = time.perf_counter(), grid
        self.number = self.ledger.next_round
        assignment = self.mechanism.draw(self.secrets.stream("cohort", self.number), self.number)
        self.ledger.intend(self.number, self.mechanism.ledger_event(), self.mechanism.queries())
        self._sent, self._answered = dict(self._requests(arrays, assignment, nodes)), set()
        return [asked.message for asked in self._sent.values()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Add up the replies, release, store, log.

        Returns:
            The new adapter, and no metrics: these go to the tracker.

        Raises:
            NodeFailedError: a node failed twice, replied twice or to another round, or its reply is
                not what it was asked for; nothing is released.
            StoppedError: a mechanism of another package adds too little noise.
        """
        cohort = self._aggregated(replies)
        noise = self.secrets.stream("noise", self.number)
        release = self.mechanism.release(cohort, noise, self.number)
        release_check.check(self.mechanism, cohort, release)
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
        """No message: private users are not evaluated."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Nothing to aggregate: no message was sent."""
        return None

    def summary(self) -> None:
        """Print nothing: the run prints its own summary at the start."""

    def _nodes(self, grid: Grid) -> list[int]:
        """The ids of all nodes, in the order of the parts of the users that they host."""
        try:
            if self.roll_call is not None:
                return self.roll_call.hosts(grid)
            nodes = sorted(grid.get_node_ids())
        except (RuntimeFailedError, RollCallError) as error:
            raise NodeFailedError(f"Before a round: {error}; no round was spent.") from None
        if not nodes:
            raise NodeFailedError("The runtime has no node; no round was spent.")
        return nodes

    def _requests(
        self, arrays: ArrayRecord, assignment: Assignment, nodes: list[int]
    ) -> Iterable[tuple[int, Asked]]:
        """One request for each node that hosts sampled units; for all nodes where sums are masked.

        The user at position p is hosted by node p mod n of the n nodes.
        """
        contract = self.mechanism.contract(self.number, self.work)
        if self.secure_sum:
            contract = secure_sum.contract_of(contract, self.mechanism, self.ledger.run)
        scale = self.optimizer.scale
        scaling = None if scale is None else self.layout.to_arrays(scale)
        hosts = assignment.users % len(nodes)
        for host in range(len(nodes)) if self.secure_sum else np.unique(hosts).tolist():
            hosted = hosts == host
            slots = assignment.slots[hosted] if len(assignment.slots) else assignment.slots
            part = Assignment(assignment.users[hosted], slots)
            message = messages.train_message(nodes[host], arrays, contract, part, scaling)
            yield nodes[host], Asked(message, contract, len(part.users))

    def _aggregated(self, replies: Iterable[Message]) -> CohortSum:
        """The sum over all nodes; a node that failed is sent its message once more."""
        aggregation = self._empty()
        failed = self._add(aggregation, replies)
        if failed and self._grid is not None:
            again = [messages.again(self._sent[node].message) for node in failed]
            replies = self._grid.send_and_receive(again, timeout=self.timeout)
            failed = self._add(aggregation, replies)
        if failed and not self.drop_failed_nodes:
            raise self._stop(f"{len(failed)} node(s) failed twice")
        try:
            return aggregation.cohort()
        except ReplyRefusedError as error:  # of the sum, where no single reply can be read
            raise self._stop(f"the sum over all nodes is refused: {error}") from None

    def _empty(self) -> _Sum:
        """The sum over no node yet."""
        if self.secure_sum:
            return MaskedAggregation.empty(self._sent.values(), self.layout.size)
        return Aggregation.empty(
            self.layout.size,
            count_unclipped=self.mechanism.adaptive is not None,
            keep_rows=self.mechanism.keeps_rows,
        )

    def _add(self, aggregation: _Sum, replies: Iterable[Message]) -> list[int]:
        """Add the replies to ``aggregation``; returns the nodes without a good reply so far."""
        try:
            for reply in replies:
                if not reply.has_error():
                    self._add_one(aggregation, reply)
        except RuntimeFailedError as error:
            raise self._stop(str(error)) from None
        return sorted(self._sent)

    def _add_one(self, aggregation: _Sum, reply: Message) -> None:
        """Add one reply, once it is the first of its node to this round and passes all checks."""
        node, number = reply.metadata.src_node_id, self.number
        if reply.metadata.group_id != str(number):
            raise self._stop(f"node {node} sent a reply to another round, an old one")
        if node in self._answered:
            raise self._stop(f"node {node} sent a second reply")
        if node not in self._sent:
            raise self._stop(f"node {node} sent a reply, and was not asked")
        try:
            aggregation.take(reply, self._sent[node], self.layout)
        except ReplyRefusedError as error:
            raise self._stop(f"the reply of node {node} is refused: {error}") from None
        del self._sent[node]
        self._answered.add(node)

    def _stop(self, reason: str) -> NodeFailedError:
        return NodeFailedError(
            f"Round {self.number}: {reason}; nothing was released. Mend the cause and resume the "
            "run: the round's intent stays spent."
        )

    def _store(self) -> str:
        """Store secrets and state; returns the digest of the state.

        Secrets come first: a stored release without the noise rows that later rounds depend on
        could not be resumed.
        """
        secrets = self.mechanism.store_secrets(self.checkpoints)
        state = Checkpoint(
            self.number,
            self.ledger.head,
            self.layout.digest,
            self.optimizer.state(),
            self.mechanism.state(),
            secrets,
        )
        return state.save(self.checkpoints)

    def _figures(self, release: Release) -> dict[str, float]:
        """Public and released metrics of the round."""
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
        """Metrics of the clients' sums, as the metric table defines them, and the round's time."""
        seconds = time.perf_counter() - self._started
        return {**metric_kinds.from_sums(sums), "seconds_round": seconds}
