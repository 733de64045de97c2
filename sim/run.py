"""One run, end to end: ledger, rounds, statement, adapter.

Whatever can be refused is refused by ``sim.prepare`` before the run folder exists.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from omegaconf import OmegaConf

from clients import evaluate, export, update
from clients.app import Host, client_app
from server import accounting, statement
from server.app import server_app
from server.checkpoint import Checkpoint
from server.ledger import Ledger, LedgerError
from server.strategy import Budget, BudgetSpentError, NodeFailedError, PrivateStrategy
from sim import estimate, header, prepare, rng, screen, selection, track, wire
from sim.errors import ConfigurationError, StoppedError
from sim.grid import InProcessGrid
from sim.planning import Plan
from sim.prepare import Prepared
from sim.progress import Progress
from sim.settings import Settings

_LOG = logging.getLogger("userdp")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run leaves behind."""

    folder: Path
    before: evaluate.Evaluation
    after: evaluate.Evaluation
    statement: Mapping[str, Any]


def run(settings: Settings, config: Mapping[str, Any]) -> Result:
    """Carry out one run; ``config`` is the resolved configuration, as it is stored.

    Raises:
        ConfigurationError: before a round is spent.
        StoppedError: a node failed twice; the run can be resumed.
    """
    ready = prepare.prepare(settings)
    minutes = estimate.minutes(settings, ready.plan, ready.world.model)
    with _open_ledger(ready, config) as ledger:
        _print_start(ready, minutes)
        tracker = _tracker(settings)
        tracker.start(config)
        try:
            before, after = _train(ready, ledger, tracker)
            return _finish(ready, ledger, tracker, before, after)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(_way_on(settings))
            raise
        except NodeFailedError as error:
            raise StoppedError(f"{error} {_way_on(settings)}") from error
        finally:
            tracker.close()


def _train(
    ready: Prepared, ledger: Ledger, tracker: track.Tracker
) -> tuple[evaluate.Evaluation, evaluate.Evaluation]:
    """All the rounds that are left; scores of the base model and of the last adapter."""
    plan, here = ready.plan, ready.world
    before = _score(ready, here.model.initial.numpy())
    tracker.log(0, {"heldout_loss": before.loss, "heldout_perplexity": before.perplexity})
    strategy = _strategy(ready, ledger, tracker)
    left = max(0, plan.rounds - ledger.rounds_intended)
    with Progress(plan.rounds) as progress:
        progress.update(ledger.rounds_intended, perplexity=before.perplexity)

        def evaluated(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            """After each of Flower's rounds, which count from 1 in every process."""
            if server_round == 0:
                return None
            spent, perplexity = ledger.rounds_intended, None
            if spent % ready.settings.eval_every == 0 or server_round == left:
                now = _score(ready, here.model.layout.to_vector(arrays))
                perplexity = now.perplexity
                scores = {"heldout_loss": now.loss, "heldout_perplexity": perplexity}
                tracker.log(strategy.number, scores)
            epsilon = strategy.budget.epsilon_after(spent) if plan.mechanism.private else None
            progress.update(spent, epsilon=epsilon, perplexity=perplexity)
            return None

        host = Host(here.model, here.corpus.train, _engine(ready.settings))
        grid = InProcessGrid(client_app(host), ready.settings.runtime.nodes)
        try:
            server_app(strategy, left, evaluated)(grid, Context(0, 0, {}, RecordDict(), {}))
        except BudgetSpentError as stop:
            _LOG.warning("%s", stop)
    return before, _score(ready, ready.optimizer.adapter)


def _strategy(ready: Prepared, ledger: Ledger, tracker: track.Tracker) -> PrivateStrategy:
    settings, plan = ready.settings, ready.plan
    replayed = settings.seed if settings.privacy.reproducible else None
    return PrivateStrategy(
        mechanism=plan.mechanism,
        contract=_contract(settings, plan),
        layout=ready.world.model.layout,
        ledger=ledger,
        budget=_budget(plan),
        optimizer=ready.optimizer,
        secrets=rng.Secrets(replay_seed=replayed),
        tracker=tracker,
        checkpoints=settings.folder / "checkpoint",
        drop_failed_nodes=settings.runtime.drop_failed_nodes,
    )


def _contract(settings: Settings, plan: Plan) -> wire.Contract:
    strategy, rule = settings.strategy, settings.selection.rule
    return wire.Contract(
        round=0,
        unit=plan.mechanism.unit,
        clip_norm=plan.mechanism.clip_norm,
        records_per_user=plan.mechanism.records_per_user,
        selection=rule,
        redraw=plan.mechanism.unit == "user" and rule in selection.DRAWN_ANEW,
        resample=strategy.resample,
        max_tokens=settings.model.seq_len,
        local_steps=strategy.local_steps,
        local_lr=strategy.local_lr,
        seed=settings.seed,
    )


def _budget(plan: Plan) -> Budget:
    """Rounds that stay within the target, and epsilon so far; both certified before round 1."""
    if not plan.mechanism.private:
        return Budget(rounds=plan.rounds, epsilon_after=lambda _: float("inf"))
    event, options = plan.mechanism.event(), plan.options
    rounds = plan.rounds
    if plan.target is not None and plan.epsilon.upper > plan.target:
        rounds = accounting.affordable_rounds(event, plan.target, plan.delta, rounds, **options)
    return Budget(
        rounds=rounds,
        epsilon_after=accounting.epsilon_curve(event, plan.rounds, plan.delta, **options),
    )


def _finish(
    ready: Prepared,
    ledger: Ledger,
    tracker: track.Tracker,
    before: evaluate.Evaluation,
    after: evaluate.Evaluation,
) -> Result:
    """Statement from the ledger, adapter with its card, summary."""
    folder, told = ready.settings.folder, _statement(ready, ledger)
    path = folder / "privacy_statement.json"
    path.write_text(json.dumps(told, indent=2) + "\n")
    _save_adapter(ready, told, before, after)
    claim = {"epsilon": told["epsilon"], "delta": told["delta"]} if told["private"] else {}
    tracker.summary(
        {
            "heldout_perplexity_before": before.perplexity,
            "heldout_loss_before": before.loss,
            "heldout_perplexity": after.perplexity,
            "heldout_loss": after.loss,
            **claim,
        }
    )
    tracker.artifact(folder / "adapter", "adapter", "model")
    tracker.artifact(path, "privacy_statement", "statement")
    screen.print_end(folder, before.perplexity, after.perplexity, told)
    return Result(folder=folder, before=before, after=after, statement=told)


def _statement(ready: Prepared, ledger: Ledger) -> Mapping[str, Any]:
    sweep = ready.settings.sweep
    return statement.build(
        ready.facts,
        ledger.spent(),
        header.claim(ready.facts, ledger.spent()),
        ledger_hash=ledger.head,
        simulation_only=ready.settings.track.simulation_only,
        sweep={"folder": sweep} if sweep else None,
    )


def _save_adapter(
    ready: Prepared,
    told: Mapping[str, Any],
    before: evaluate.Evaluation,
    after: evaluate.Evaluation,
) -> None:
    here, folder = ready.world, ready.settings.folder / "adapter"
    export.save(here.model, ready.optimizer.adapter, folder, base=here.base)
    scores = {
        "held-out perplexity before": before.perplexity,
        "held-out perplexity after": after.perplexity,
    }
    card = statement.model_card(
        told, base_model=here.base_name, base_revision=here.revision, scores=scores
    )
    (folder / "README.md").write_text(card)


def _open_ledger(ready: Prepared, config: Mapping[str, Any]) -> Ledger:
    """Start the run's folder and ledger, or go on with those of ``resume``."""
    settings = ready.settings
    path = settings.folder / "ledger.jsonl"
    try:
        if settings.resume is not None:
            return _resumed(ready, path)
        settings.folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger.create(path, ready.facts)
        OmegaConf.save(OmegaConf.create(dict(config)), settings.folder / "config.yaml")
    except (LedgerError, OSError) as error:
        name = "output" if settings.resume is None else "resume"
        raise ConfigurationError(f"{name}={settings.folder}: {error}") from None
    return ledger


def _resumed(ready: Prepared, path: Path) -> Ledger:
    folder = path.parent / "checkpoint"
    try:
        stored = Checkpoint.load(folder, ready.world.model.layout.digest)
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigurationError(f"resume={path.parent}: {folder} is damaged: {error}") from None
    ledger = Ledger.resume(path, ready.facts, stored.ledger_head if stored else None)
    if stored:
        ready.optimizer.restore(stored.optimizer)
    return ledger


def _tracker(settings: Settings) -> track.Tracker:
    keep, folder = settings.track.simulation_only, settings.folder
    lines = track.JsonlTracker(folder / "metrics.jsonl", simulation_only=keep)
    if settings.track.sink == "jsonl":
        return lines
    wandb = track.WandbTracker(
        folder,
        project=settings.track.project,
        group=settings.track.group or settings.sweep,
        job_type=settings.strategy.name,
        name=folder.name,
        simulation_only=keep,
    )
    return track.Fanout(lines, wandb)


def _score(ready: Prepared, adapter: np.ndarray) -> evaluate.Evaluation:
    """An adapter (D,) on the held-out records."""
    model = ready.world.model
    return evaluate.evaluate(
        model,
        torch.from_numpy(adapter.astype(np.float32)).to(model.device),
        ready.world.corpus.heldout,
        seq_len=ready.settings.model.seq_len,
        max_tokens=ready.settings.engine.max_tokens,
    )


def _engine(settings: Settings) -> update.EngineSettings:
    return update.EngineSettings(
        max_tokens=settings.engine.max_tokens, max_lanes=settings.engine.max_lanes
    )


def _print_start(ready: Prepared, minutes: float | None) -> None:
    here = ready.world
    train, real = here.corpus.train, {}
    if ready.settings.track.simulation_only:
        dropped = sum(here.corpus.dropped.values())
        real = {
            "users": len(train),
            "records": len(train.user_records),
            "records dropped": dropped,
        }
    screen.print_start(
        ready.plan,
        model=f"{here.base_name}, adapter of {here.model.layout.size:,} parameters",
        minutes=minutes,
        reproducible=ready.settings.privacy.reproducible,
        real=real,
    )


def _way_on(settings: Settings) -> str:
    return f"go on with: userdp run resume={settings.folder}"
