"""Sets up the nodes of a run: their local work, their model and records, and their ClientApp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.clientapp import ClientApp
from omegaconf import OmegaConf

from userdp.clients.app import Host, client_app
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common import cache, third_party
from userdp.sim.config import validation
from userdp.sim.config.settings import Settings
from userdp.sim.data import selection
from userdp.sim.data.population import Population
from userdp.sim.inputs import run_inputs
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.protocol.contract import LocalWork
from userdp.sim.run import record_perplexity


def local_work(settings: Settings) -> LocalWork:
    """The local work of every unit, from the configuration."""
    strategy, rule = settings.strategy, settings.selection.rule
    return LocalWork(
        selection=rule,
        redraw=selection.RULES.find(rule).drawn_anew,
        resample=strategy.resample,
        max_tokens=settings.model.seq_len,
        local_steps=strategy.local_steps,
        local_lr=strategy.local_lr,
        seed=settings.seed,
    )


def host(settings: Settings, inputs: RunInputs, engine: EngineSettings) -> Host:
    """The model and the training records, with perplexities if the selection needs them."""
    return Host(inputs.model, _train_population(settings, inputs, engine), engine)


def app_from_config(values: Mapping[str, Any]) -> ClientApp:
    """The ClientApp of a process that serves nodes, built from a configuration alone.

    It loads the model and the records at once, so that what is missing shows before a round is
    spent. A process on another machine becomes a node by this function: it needs nothing of the
    server's memory, but the data and the model at the paths of the configuration.

    Args:
        values: the resolved configuration, as `config.yaml` of a run folder holds it.

    Raises:
        ConfigurationError: the configuration is not valid, or data or model do not fit it.
    """
    third_party.environment()
    settings = validation.parse(OmegaConf.create(dict(values)))
    inputs = run_inputs.build(settings)
    return client_app(host(settings, inputs, run_inputs.fit_engine(settings, inputs.model)))


def _train_population(settings: Settings, inputs: RunInputs, engine: EngineSettings) -> Population:
    needed = selection.RULES.find(settings.selection.rule).needs_perplexity
    if not (needed and len(inputs.corpus.train)):  # a server may have no record
        return inputs.corpus.train
    seq_len = settings.model.seq_len
    return inputs.cached(
        ("perplexity", seq_len),
        lambda: record_perplexity.with_perplexity(
            inputs.corpus.train,
            inputs.model,
            content=f"{inputs.corpus.name}/train",
            seq_len=seq_len,
            max_tokens=engine.max_tokens,
            cache_folder=cache.cache_root(),
        ),
    )
