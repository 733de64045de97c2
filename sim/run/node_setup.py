"""What the nodes of a run are told, and the records they hold: contract and training population."""

from __future__ import annotations

from userdp.clients.training.memory import EngineSettings
from userdp.sim.common import cache
from userdp.sim.config.settings import Settings
from userdp.sim.data import selection
from userdp.sim.data.population import Population
from userdp.sim.planning.planner import Plan
from userdp.sim.protocol import messages
from userdp.sim.run import record_perplexity
from userdp.sim.run.inputs import World


def contract(settings: Settings, plan: Plan) -> messages.Contract:
    """What every unit of a round is told, but for the round's number."""
    strategy, rule = settings.strategy, settings.selection.rule
    drawn_anew = selection.RULES.find(rule).drawn_anew
    return messages.Contract(
        round=0,
        unit=plan.mechanism.unit,
        clip_norm=plan.mechanism.clip_norm,
        records_per_user=plan.mechanism.records_per_user,
        selection=rule,
        redraw=plan.mechanism.unit == "user" and drawn_anew,
        resample=strategy.resample,
        max_tokens=settings.model.seq_len,
        local_steps=strategy.local_steps,
        local_lr=strategy.local_lr,
        seed=settings.seed,
    )


def train_population(settings: Settings, here: World, engine: EngineSettings) -> Population:
    """The training records, with their scores where the selection sorts by them."""
    if not selection.RULES.find(settings.selection.rule).needs_perplexity:
        return here.corpus.train
    seq_len = settings.model.seq_len
    return here.figure(
        ("perplexity", seq_len),
        lambda: record_perplexity.with_perplexity(
            here.corpus.train,
            here.model,
            content=f"{here.corpus.name}/train",
            seq_len=seq_len,
            max_tokens=engine.max_tokens,
            cache_folder=cache.cache_root(),
        ),
    )
