"""One run, end to end: plan, ledger, rounds, statement, adapter.

Whatever can be refused is refused before the run folder exists.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from hydra.utils import instantiate
from omegaconf import OmegaConf

from clients import evaluate, export, packing, update
from clients.app import Host, client_app
from server import accounting, optimizer, statement
from server.app import server_app
from server.checkpoint import Checkpoint
from server.ledger import Ledger
from server.strategy import Budget, BudgetSpentError, PrivateStrategy
from sim import header, planning, rng, screen, selection, track, wire, world
from sim.errors import ConfigurationError
from sim.grid import InProcessGrid
from sim.planning import Plan
from sim.progress import Progress
from sim.settings import Settings
from sim.world import World


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
        ConfigurationError: before anything is written.
    """
    for name in ("flwr", "transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    here = world.build(settings)
    plan = planning.make(settings, _declared_users(settings, here))
    rounds_optimizer = _optimizer(settings, plan, here)
    facts = header.header(settings, plan, layout=here.model.layout.digest, base=here.base_name)
    screen.print_start(
        plan,
        model=here.base_name,
        adapter_size=here.model.layout.size,
        minutes=_minutes(settings, plan, here),
        reproducible=settings.privacy.reproducible,
        real=_real_counts(settings, here),
    )
    with _open_ledger(settings, config, facts, here, rounds_optimizer) as ledger:
        tracker = _tracker(settings)
        tracker.start(config)
        try:
            before, after = _train(settings, plan, here, ledger, rounds_optimizer, tracker)
            return _finish(settings, here, ledger, facts, rounds_optimizer, tracker, before, after)
        finally:
            tracker.close()


def _train(
    settings: Settings,
    plan: Plan,
    here: World,
    ledger: Ledger,
    rounds_optimizer: optimizer.ServerOptimizer,
    tracker: track.Tracker,
) -> tuple[evaluate.Evaluation, evaluate.Evaluation]:
    """All the rounds that are left; returns the scores of the base model and of the last adapter."""
    host = Host(here.model, here.corpus.train, update.EngineSettings(**vars(settings.engine)))
    strategy = PrivateStrategy(
        mechanism=plan.mechanism,
        contract=_contract(settings, plan),
        layout=here.model.layout,
        ledger=ledger,
        budget=_budget(plan),
        optimizer=rounds_optimizer,
        secrets=rng.Secrets(replay_seed=settings.seed if settings.privacy.reproducible else None),
        tracker=tracker,
        checkpoints=settings.folder / "checkpoint",
        drop_failed_nodes=settings.runtime.drop_failed_nodes,
    )
    score = _scorer(settings, here)
    before = score(here.model.initial.numpy())
    tracker.log(0, {"heldout_loss": before.loss, "heldout_perplexity": before.perplexity})
    left = plan.rounds - ledger.rounds_intended
    with Progress(plan.rounds) as progress:
        progress.update(ledger.rounds_intended, perplexity=before.perplexity)

        def evaluated(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            """After each of Flower's rounds, which count from 1 in every process."""
            if server_round == 0:
                return None
            spent, perplexity = ledger.rounds_intended, None
            if spent % settings.eval_every == 0 or server_round == left:
                now = score(here.model.layout.to_vector(arrays))
                perplexity = now.perplexity
                scores = {"heldout_loss": now.loss, "heldout_perplexity": perplexity}
                tracker.log(strategy.number, scores)
            epsilon = strategy.budget.epsilon_after(spent) if plan.mechanism.private else None
            progress.update(spent, epsilon=epsilon, perplexity=perplexity)
            return None

        grid = InProcessGrid(client_app(host), settings.runtime.nodes)
        try:
            server_app(strategy, max(0, left), evaluated)(grid, Context(0, 0, {}, RecordDict(), {}))
        except BudgetSpentError as stop:
            logging.getLogger("userdp").warning("%s", stop)
    return before, score(rounds_optimizer.adapter)


def _finish(
    settings: Settings,
    here: World,
    ledger: Ledger,
    facts: Mapping[str, Any],
    rounds_optimizer: optimizer.ServerOptimizer,
    tracker: track.Tracker,
    before: evaluate.Evaluation,
    after: evaluate.Evaluation,
) -> Result:
    """Statement from the ledger, adapter with its card, summary."""
    folder = settings.folder
    told = statement.build(
        facts,
        ledger.spent(),
        header.claim(facts, ledger.spent()),
        ledger_hash=ledger.head,
        simulation_only=settings.track.simulation_only,
        sweep={"folder": settings.sweep} if settings.sweep else None,
    )
    path = folder / "privacy_statement.json"
    path.write_text(json.dumps(told, indent=2) + "\n")
    export.save(here.model, rounds_optimizer.adapter, folder / "adapter", base=here.base)
    scores = {
        "held-out perplexity before": before.perplexity,
        "held-out perplexity after": after.perplexity,
    }
    card = statement.model_card(
        told, base_model=here.base_name, base_revision=here.revision, scores=scores
    )
    (folder / "adapter" / "README.md").write_text(card)
    tracker.summary(
        {
            "heldout_perplexity_before": before.perplexity,
            "heldout_loss_before": before.loss,
            "heldout_perplexity": after.perplexity,
            "heldout_loss": after.loss,
            **({"epsilon": told["epsilon"], "delta": told["delta"]} if told["private"] else {}),
        }
    )
    tracker.artifact(folder / "adapter", "adapter", "model")
    tracker.artifact(path, "privacy_statement", "statement")
    screen.print_end(folder, before.perplexity, after.perplexity, statement.prose(told))
    return Result(folder=folder, before=before, after=after, statement=told)


def _declared_users(settings: Settings, here: World) -> int:
    """N: as declared, or counted once (then listed under the assumptions)."""
    declared = settings.privacy.users
    if declared is not None and declared < len(here.corpus.train):
        raise ConfigurationError(
            f"privacy.users={declared}: the training split has more users; declare at least as many."
        )
    return declared or len(here.corpus.train)


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


def _optimizer(settings: Settings, plan: Plan, here: World) -> optimizer.ServerOptimizer:
    schedule = settings.schedule
    factor = optimizer.learning_rate_factor(schedule.name, schedule.warmup, plan.rounds)
    try:
        return optimizer.ServerOptimizer(
            here.model.initial.numpy(), instantiate(settings.optimizer), factor
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"optimizer: {error}") from None


def _budget(plan: Plan) -> Budget:
    """Rounds that stay within the target, and epsilon so far; both certified, made before round 1."""
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


def _open_ledger(
    settings: Settings,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    here: World,
    rounds_optimizer: optimizer.ServerOptimizer,
) -> Ledger:
    """Start the run's folder and ledger, or go on with those of ``resume``."""
    folder = settings.folder
    path = folder / "ledger.jsonl"
    if settings.resume is None:
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger.create(path, facts)
        OmegaConf.save(OmegaConf.create(dict(config)), folder / "config.yaml")
        return ledger
    stored = Checkpoint.load(folder / "checkpoint", here.model.layout.digest)
    ledger = Ledger.resume(path, facts, stored.ledger_head if stored else None)
    if stored:
        rounds_optimizer.restore(stored.optimizer)
    return ledger


def _tracker(settings: Settings) -> track.Tracker:
    keep, folder = settings.track.simulation_only, settings.folder
    lines = track.JsonlTracker(folder / "metrics.jsonl", simulation_only=keep)
    if settings.track.sink == "jsonl":
        return lines
    group = settings.track.group or settings.sweep
    wandb = track.WandbTracker(
        folder,
        project=settings.track.project,
        group=group,
        job_type=settings.strategy.name,
        name=folder.name,
        simulation_only=keep,
    )
    return track.Fanout(lines, wandb)


def _scorer(settings: Settings, here: World) -> Callable[[np.ndarray], evaluate.Evaluation]:
    """Scores an adapter (D,) on the held-out users."""

    def score(adapter: np.ndarray) -> evaluate.Evaluation:
        return evaluate.evaluate(
            here.model,
            torch.from_numpy(adapter.astype(np.float32)).to(here.model.device),
            here.corpus.heldout,
            seq_len=settings.model.seq_len,
            max_tokens=settings.engine.max_tokens,
        )

    return score


def _real_counts(settings: Settings, here: World) -> dict[str, int]:
    """Shown only where simulation_only metrics are on."""
    if not settings.track.simulation_only:
        return {}
    train = here.corpus.train
    dropped = sum(here.corpus.dropped.values())
    return {"users": len(train), "records": len(train.user_records), "records dropped": dropped}


def _minutes(settings: Settings, plan: Plan, here: World) -> float | None:
    """What the rounds take at most, from timing one stack of made-up tokens; None if k is open."""
    k = plan.mechanism.records_per_user
    if k == 0:
        return None
    length = settings.model.seq_len
    rows = max(1, settings.engine.max_tokens // length)
    tokens = rng.generator(0, "probe").integers(0, here.model.vocabulary, (rows, length + 1))
    [stack] = packing.stacks([[row] for row in tokens], rows * length)
    started = here.model.initial.to(here.model.device)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        here.model.gradients(started, stack)[1].item()
        times.append(time.perf_counter() - begin)
    return plan.rounds * settings.cohort * k / rows * min(times) / 60
