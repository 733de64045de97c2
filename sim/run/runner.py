"""Runs a federated training from start to end: ledger, rounds, statement, adapter.

All checks are made by `userdp.sim.run.prepare`, before the run folder exists.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

from userdp.clients.app import client_app
from userdp.clients.evaluation.heldout import Evaluation
from userdp.clients.masked_sums import MaskedSums
from userdp.server import budget
from userdp.server.app import server_app
from userdp.server.ledger import hash_chain
from userdp.server.ledger.ledger import Ledger, LedgerError
from userdp.server.mechanisms.base import Mechanism
from userdp.server.roll_call import RollCall
from userdp.server.strategy import (
    BudgetSpentError,
    HaltedError,
    NodeFailedError,
    PrivateStrategy,
)
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.config.settings import Settings
from userdp.sim.console import environment_errors, run_summary
from userdp.sim.console.progress import Progress
from userdp.sim.inputs import run_inputs
from userdp.sim.run import (
    base_score,
    finish,
    going_on,
    input_digests,
    ledger_header,
    node_setup,
    prepare,
    resume,
    time_estimate,
    trackers,
)
from userdp.sim.run.finish import Result
from userdp.sim.run.health import divergence
from userdp.sim.run.health.divergence import PublicUser
from userdp.sim.run.prepare import Prepared
from userdp.sim.run_folder import reader
from userdp.sim.runtime import registry as runtimes
from userdp.sim.runtime.registry import RUNTIMES, Nodes
from userdp.sim.tracking.tracker import Tracker

_LOG = logging.getLogger("userdp")
_COUNTED = (
    "privacy.users=null: the number of users, {}, was counted from the data, and the claim says "
    "so; if an upper bound is publicly known, declare it by privacy.users=N."
)


def run(
    settings: Settings,
    config: Mapping[str, Any],
    load: prepare.LoadInputs = run_inputs.load,
) -> Result:
    """Run all the rounds that are left, and write statement, adapter and summary.

    Args:
        config: the resolved configuration, as plain values; stored in the run folder.
        load: loads records and model, which runs of one process may share.

    Raises:
        ConfigurationError: before a round is spent.
        StoppedError: a node failed twice or answered wrongly, and the run can be resumed; or the
            training diverged, or the saved adapter does not score as the trained model.
    """
    with environment_errors.raised_as(ConfigurationError, _places(settings)):
        settings = going_on.settled(settings)
        prepared = prepare.prepare(settings, load)
        divergence.check_start(
            _public_user(prepared),
            prepared.plan.mechanism,
            prepared.optimizer.adapter,
            prepared.inputs.base,
        )
        minutes = time_estimate.minutes(
            settings,
            prepared.plan,
            prepared.inputs,
            prepared.engine,
            scores=0 if base_score.known(prepared) else 1,
        )
        opened, mechanism = _open_run(prepared, config)
    stopped = environment_errors.raised_as(
        StoppedError, _places(settings), lambda: _resume_command(settings)
    )
    with stopped, opened as ledger, node_setup.masked_sums(settings) as masked:
        if settings.track.simulation_only:  # before the first such value is printed or written
            ledger.note(hash_chain.SIMULATION_ONLY)
        _print_start(prepared, minutes)
        if prepared.header["users_counted"] and prepared.plan.mechanism.private:
            _LOG.warning("%s", _COUNTED.format(prepared.plan.mechanism.users))
        tracker = trackers.of(settings)
        _start(tracker, prepared, config)
        try:
            strategy = _strategy(prepared, ledger, mechanism, tracker, masked)
            return _run_rounds(prepared, config, strategy, tracker, masked)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(_resume_command(settings))
            raise
        except NodeFailedError as error:
            raise StoppedError(f"{error} {_resume_command(settings)}") from error
        finally:
            tracker.close()


def _run_rounds(
    prepared: Prepared,
    config: Mapping[str, Any],
    strategy: PrivateStrategy,
    tracker: Tracker,
    masked: MaskedSums | None,
) -> Result:
    start = time.perf_counter()
    nodes = _nodes(prepared, config, masked)
    before, after = _train(prepared, nodes, strategy, tracker)
    seconds = time.perf_counter() - start
    prepared.plan.mechanism.delete_secrets(prepared.folder.checkpoint)
    released = strategy.mechanism.summary()
    result = finish.finish(prepared, strategy.ledger, tracker, before, after, released)
    return replace(result, training_seconds=seconds)


def _train(
    prepared: Prepared, nodes: Nodes, strategy: PrivateStrategy, tracker: Tracker
) -> tuple[Evaluation, Evaluation]:
    """Train for the rounds that are left; scores of the base model and of the last adapter."""
    plan, ledger, settings = prepared.plan, strategy.ledger, prepared.settings
    before = base_score.score(prepared)
    if not reader.metrics(prepared.folder):  # a resumed run has logged round 0 before
        tracker.log(0, before.metrics())
    rounds_left = max(0, plan.rounds - ledger.rounds_intended)
    scores: dict[int, Evaluation] = {}  # by rounds spent
    watch = _watch(prepared)
    with Progress(plan.rounds) as progress:
        progress.update(ledger.rounds_intended, score=before.headline)

        def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
            """Score and show a round; Flower counts rounds from 1 in every process."""
            spent, score = ledger.rounds_intended, None
            if spent:
                watch.check_round(strategy.mechanism, spent)
            if server_round == 0:
                return None
            if spent % settings.eval_every == 0 or server_round == rounds_left:
                scores[spent] = finish.score(prepared, prepared.optimizer.averaged)
                watch.check_score(scores[spent].loss, spent)
                score = scores[spent].headline
                tracker.log(strategy.number, scores[spent].metrics())
            epsilon = strategy.budget.epsilon_after(spent) if plan.mechanism.private else None
            progress.update(spent, epsilon=epsilon, score=score)
            return None

        with RUNTIMES.find(settings.runtime.kind)(nodes) as grid:
            _serve(server_app(strategy, rounds_left, evaluate), grid)
    if strategy.mechanism.halted:
        _LOG.warning("%s", _halted(ledger.rounds_intended, plan.rounds))
    spent = ledger.rounds_intended  # a score of it is one of the adapter that the optimiser holds
    after = scores.get(spent) or finish.score(prepared, prepared.optimizer.averaged)
    watch.check_score(after.loss, spent)
    return before, after


def _serve(app: ServerApp, grid: Grid) -> None:
    """Run all rounds, or those that mechanism and budget allow."""
    try:
        app(grid, Context(0, 0, {}, RecordDict(), {}))
    except HaltedError:
        pass
    except BudgetSpentError as stop:
        _LOG.warning("%s", stop)


def _public_user(prepared: Prepared) -> PublicUser:
    work = node_setup.local_work(prepared.settings)
    return PublicUser.of(prepared.inputs, work, prepared.engine)


def _watch(prepared: Prepared) -> divergence.Watch:
    return divergence.Watch(
        user=_public_user(prepared),
        optimizer=prepared.optimizer,
        asked=prepared.settings.optimizer,
        rounds=prepared.plan.rounds,
    )


def _nodes(prepared: Prepared, config: Mapping[str, Any], masked: MaskedSums | None) -> Nodes:
    settings = prepared.settings
    host = node_setup.host(settings, prepared.inputs, prepared.engine, masked)
    return Nodes(
        count=settings.runtime.nodes,
        app=client_app(host),
        config=node_setup.with_keys(config, masked),
        make_app=node_setup.app_from_config,
    )


def _halted(spent: int, planned: int) -> str:
    return f"The mechanism halted and ends the run; {spent} of {planned} rounds are spent."


def _strategy(
    prepared: Prepared,
    ledger: Ledger,
    mechanism: Mechanism,
    tracker: Tracker,
    masked: MaskedSums | None,
) -> PrivateStrategy:
    settings, plan = prepared.settings, prepared.plan
    replay_seed = settings.seed if settings.privacy.reproducible else None
    return PrivateStrategy(
        mechanism=mechanism,
        work=node_setup.local_work(settings),
        layout=prepared.inputs.model.layout,
        ledger=ledger,
        budget=budget.certified(
            plan.mechanism,
            plan.rounds,
            plan.delta,
            epsilon=plan.epsilon.upper,
            target=plan.target,
            options=plan.options,
        ),
        optimizer=prepared.optimizer,
        secrets=rng.Secrets(replay_seed=replay_seed),
        tracker=tracker,
        checkpoints=prepared.folder.checkpoint,
        drop_failed_nodes=settings.runtime.drop_failed_nodes,
        timeout=settings.runtime.timeout,
        roll_call=RollCall(
            settings.runtime.nodes,
            plan.mechanism.users,
            prepared.inputs.model.layout.digest,
            settings.runtime.patience,
            roster=masked.roster.digest if masked is not None else "",
            population=_population(prepared),
        ),
        secure_sum=masked is not None,
    )


def _population(prepared: Prepared) -> str | None:
    """Id of the population whose users the nodes host, as far as the server can know it."""
    settings = prepared.settings
    if not runtimes.holds_records(settings.runtime.kind):
        return prepared.inputs.corpus.name
    origin = settings.data.origin
    return None if origin is None else origin.cut


def _open_run(prepared: Prepared, config: Mapping[str, Any]) -> tuple[Ledger, Mechanism]:
    """Create the run's folder and ledger, or open those of the resumed run.

    In this order: an empty ledger, locked; the configuration; the digests of the inputs; and last
    the ledger's first line, which makes the folder a run. Killed before it, the run has not begun,
    and the same command begins it; killed after it, there is all that a resume needs.
    """
    settings, folder = prepared.settings, prepared.folder
    try:
        if settings.resume is not None:
            return resume.open_run(prepared, config)
        folder.path.mkdir(parents=True, exist_ok=True)
        code = ledger_header.code(settings, prepared.plan.mechanism)

        def before() -> None:
            """Store what a resume needs, while the ledger is locked and still empty."""
            going_on.write_config(folder, config)
            input_digests.write(folder, prepared.inputs)

        ledger = Ledger.create(folder.ledger, prepared.header, code=code, before=before)
    except LedgerError as error:
        name = "output" if settings.resume is None else "resume"
        raise ConfigurationError(f"{name}={folder.path}: {error}") from None
    return ledger, prepared.plan.mechanism


def _start(tracker: Tracker, prepared: Prepared, config: Mapping[str, Any]) -> None:
    """Start the trackers; where one cannot, a new run's files are removed: no round is spent.

    Raises:
        ConfigurationError: a sink does not start.
    """
    try:
        tracker.start(config)
    except ConfigurationError:
        tracker.close()
        folder = prepared.folder
        if prepared.settings.resume is None:
            files = (folder.metrics, folder.input_digests, folder.config, folder.ledger)
            for file in files:  # the ledger last: it marks the others as a run's
                file.unlink(missing_ok=True)
        raise


def _print_start(prepared: Prepared, minutes: float | None) -> None:
    inputs, counts = prepared.inputs, {}
    train = inputs.corpus.train
    if prepared.settings.track.simulation_only and len(train):  # the server may have no record
        counts = {
            "users": len(train),
            "records": len(train.user_records),
            "records dropped": sum(inputs.corpus.dropped.values()),
            **({"canaries": inputs.canaries.count} if inputs.canaries else {}),
        }
    run_summary.print_start(
        prepared.plan,
        model=f"{inputs.base_name}, adapter of {inputs.model.layout.size:,} parameters",
        minutes=minutes,
        reproducible=prepared.settings.privacy.reproducible,
        real=counts,
    )


def _places(settings: Settings) -> dict[str, Path]:
    """Places that the configuration chooses, by the name of the setting."""
    inputs = {"data.path": settings.data.path, "model.path": settings.model.path}
    named = {name: Path(path) for name, path in inputs.items() if path and Path(path).exists()}
    return {"output": settings.folder, **named}


def _resume_command(settings: Settings) -> str:
    return f"resume with: userdp run resume={settings.folder}"
