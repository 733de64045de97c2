"""What the nodes of a run are told, and the records they hold: contract and training population."""

from __future__ import annotations

from clients.engine import EngineSettings
from sim import cache, scoring, selection, wire
from sim.planning import Plan
from sim.population import Population
from sim.settings import Settings
from sim.world import World


def contract(settings: Settings, plan: Plan) -> wire.Contract:
    """What every unit of a round is told, but for the round's number."""
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


def train_population(settings: Settings, here: World, engine: EngineSettings) -> Population:
    """The training records, with their scores where the selection sorts by them."""
    if settings.selection.rule not in selection.BY_PERPLEXITY:
        return here.corpus.train
    seq_len = settings.model.seq_len
    return here.figure(
        ("perplexity", seq_len),
        lambda: scoring.with_perplexity(
            here.corpus.train,
            here.model,
            content=f"{here.corpus.name}/train",
            seq_len=seq_len,
            max_tokens=engine.max_tokens,
            cache_folder=cache.cache_root(),
        ),
    )
