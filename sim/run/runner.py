"""One run, end to end: ledger, rounds, statement, adapter.

Whatever can be refused is refused by ``userdp.sim.run.prepare`` before the run folder exists.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from omegaconf import OmegaConf

from userdp.clients.app import Host, client_app
from userdp.clients.evaluation import heldout
from userdp.server.app import server_app
from userdp.server.checkpoint import Checkpoint
from userdp.server.ledger import hash_chain
from userdp.server.ledger.ledger import Account, Ledger, LedgerError, verify
from userdp.server.mechanisms.base import Mechanism
from userdp.server.strategy import BudgetSpentError, HaltedError, NodeFailedError, PrivateStrategy
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.config.settings import Settings
from userdp.sim.console import run_summary
from userdp.sim.console.progress import Progress
from userdp.sim.run import (
    base_score,
    budget,
    finish,
    inputs,
    ledger_header,
    node_setup,
    prepare,
    time_estimate,
    trackers,
)
from userdp.sim.run.finish import Result
from userdp.sim.run.prepare import Prepared
from userdp.sim.runtime.in_process import InProcessGrid
from userdp.sim.tracking import tracker as track

_LOG = logging.getLogger("userdp")


def run(
    settings: Settings, config: Mapping[str, Any], load: prepare.LoadWorld = inputs.load
) -> Result:
    """Carry out one run; ``config`` is the resolved configuration, as it is stored.

    Runs of one process may share their world through ``load``.

    Raises:
        ConfigurationError: before a round is spent.
        StoppedError: a node failed twice; the run can be resumed.
    """
    ready = prepare.prepare(settings, load)
    minutes = time_estimate.minutes(settings, ready.plan, ready.world, ready.engine.max_tokens)
    with _open_ledger(ready, config) as ledger:
        _print_start(ready, minutes)
        tracker = trackers.of(settings)
        tracker.start(config)
        try:
            strategy = _strategy(ready, ledger, tracker)
            host = _host(ready)
            begin = time.perf_counter()
            before, after = _train(ready, strategy, tracker, host)
            seconds = time.perf_counter() - begin
            ready.plan.mechanism.delete_secrets(settings.folder / "checkpoint")
            released = strategy.mechanism.summary()
            told = finish.finish(ready, ledger, tracker, before, after, released)
            return replace(told, training_seconds=seconds)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(_way_on(settings))
            raise
        except NodeFailedError as error:
            raise StoppedError(f"{error} {_way_on(settings)}") from error
        finally:
            tracker.close()


def _train(
    ready: Prepared, strategy: PrivateStrategy, tracker: track.Tracker, host: Host
) -> tuple[heldout.Evaluation, heldout.Evaluation]:
    """All the rounds that are left; scores of the base model and of the last adapter."""
    plan, ledger = ready.plan, strategy.ledger
    before = base_score.score(ready)
    tracker.log(0, before.metrics())
    left = max(0, plan.rounds - ledger.rounds_intended)
    scored: dict[int, heldout.Evaluation] = {}  # by rounds spent
    with Progress(plan.rounds) as progress:
        progress.update(ledger.rounds_intended, score=before.headline)

        def evaluated(server_round: int, _: ArrayRecord) -> MetricRecord | None:
            """After each of Flower's rounds, which count from 1 in every process."""
            if server_round == 0:
                return None
            spent, score = ledger.rounds_intended, None
            if spent % ready.settings.eval_every == 0 or server_round == left:
                now = finish.score(ready, ready.optimizer.averaged)
                scored[spent], score = now, now.headline
                tracker.log(strategy.number, now.metrics())
            epsilon = strategy.budget.epsilon_after(spent) if plan.mechanism.private else None
            progress.update(spent, epsilon=epsilon, score=score)
            return None

        grid = InProcessGrid(client_app(host), ready.settings.runtime.nodes)
        try:
            server_app(strategy, left, evaluated)(grid, Context(0, 0, {}, RecordDict(), {}))
        except HaltedError:
            pass
        except BudgetSpentError as stop:
            _LOG.warning("%s", stop)
    if strategy.mechanism.halted:
        spent = f"{ledger.rounds_intended} of {plan.rounds} rounds are spent"
        _LOG.warning("strategy.on_failure=halt: the last test failed and ends the run; %s.", spent)
    last = scored.get(ledger.rounds_intended)  # of what the optimiser holds
    return before, last or finish.score(ready, ready.optimizer.averaged)


def _strategy(ready: Prepared, ledger: Ledger, tracker: track.Tracker) -> PrivateStrategy:
    settings, plan = ready.settings, ready.plan
    replayed = settings.seed if settings.privacy.reproducible else None
    return PrivateStrategy(
        mechanism=_mechanism(ready),
        contract=node_setup.contract(settings, plan),
        layout=ready.world.model.layout,
        ledger=ledger,
        budget=budget.certified(plan),
        optimizer=ready.optimizer,
        secrets=rng.Secrets(replay_seed=replayed),
        tracker=tracker,
        checkpoints=settings.folder / "checkpoint",
        drop_failed_nodes=settings.runtime.drop_failed_nodes,
    )


def _mechanism(ready: Prepared) -> Mechanism:
    """As planned, or as the last stored release left it."""
    planned, settings = ready.plan.mechanism, ready.settings
    if settings.resume is None:
        return planned
    stored = Checkpoint.load(settings.folder / "checkpoint", ready.world.model.layout.digest)
    return planned if stored is None else planned.restored(stored.mechanism)


def _open_ledger(ready: Prepared, config: Mapping[str, Any]) -> Ledger:
    """Start the run's folder and ledger, or go on with those of ``resume``."""
    settings = ready.settings
    path = settings.folder / "ledger.jsonl"
    try:
        if settings.resume is not None:
            return _resumed(ready, path)
        settings.folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger.create(path, ready.facts, code=ledger_header.code())
        OmegaConf.save(OmegaConf.create(dict(config)), settings.folder / "config.yaml")
    except (LedgerError, OSError) as error:
        name = "output" if settings.resume is None else "resume"
        raise ConfigurationError(f"{name}={settings.folder}: {error}") from None
    return ledger


def _resumed(ready: Prepared, path: Path) -> Ledger:
    folder = path.parent / "checkpoint"
    try:
        stored = Checkpoint.load(folder, ready.world.model.layout.digest)
    except ConfigurationError:
        raise
    except Exception as error:  # torch tells of a damaged file in many ways
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"resume={path.parent}: {folder} is damaged: {reason}") from None
    account = verify(path)
    _load_secrets(ready, account, stored)
    head = stored.ledger_head if stored else None
    ledger = Ledger.resume(path, ready.facts, head, code=ledger_header.code())
    if ledger.rounds_intended != account.rounds:  # what was read is older than the lock
        ledger.close()
        raise ConfigurationError(
            f"resume={path.parent}: another process went on with it; try again."
        )
    if stored:
        ready.optimizer.restore(stored.optimizer)
    return ledger


def _load_secrets(ready: Prepared, account: Account, stored: Checkpoint | None) -> None:
    """Into the planned mechanism, before the ledger notes that the run goes on."""
    if hash_chain.differences(account.header, hash_chain.plain(ready.facts, "header")):
        return  # another mechanism: the ledger says in what, and refuses
    finished = set(range(1, account.rounds + 1)) - set(account.unfinished)
    ready.plan.mechanism.load_secrets(
        ready.settings.folder / "checkpoint",
        ready.world.model.layout.size,
        released=max(finished | {stored.round if stored else 0}),
        intended=account.rounds,
    )


def _host(ready: Prepared) -> Host:
    """The nodes' model and records, scored where the selection asks for it."""
    here, engine = ready.world, ready.engine
    return Host(here.model, node_setup.train_population(ready.settings, here, engine), engine)


def _print_start(ready: Prepared, minutes: float | None) -> None:
    here = ready.world
    train, real = here.corpus.train, {}
    if ready.settings.track.simulation_only:
        dropped = sum(here.corpus.dropped.values())
        real = {
            "users": len(train),
            "records": len(train.user_records),
            "records dropped": dropped,
            **({"canaries": here.canaries.count} if here.canaries else {}),
        }
    run_summary.print_start(
        ready.plan,
        model=f"{here.base_name}, adapter of {here.model.layout.size:,} parameters",
        minutes=minutes,
        reproducible=ready.settings.privacy.reproducible,
        real=real,
    )


def _way_on(settings: Settings) -> str:
    return f"go on with: userdp run resume={settings.folder}"
