"""Sets up the nodes of a run: their local work, their model and records, and their ClientApp."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from omegaconf import OmegaConf

from userdp.clients import node_keys
from userdp.clients.app import Host, client_app
from userdp.clients.masked_sums import MaskedSums
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common import cache, third_party
from userdp.sim.common.errors import ConfigurationError
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


def host(
    settings: Settings,
    inputs: RunInputs,
    engine: EngineSettings,
    masked: MaskedSums | None = None,
) -> Host:
    """The model and the training records, with perplexities if the selection needs them.

    Args:
        settings: of the run.
        inputs: its model and records.
        engine: fitted to the device.
        masked: of a run with secure sums.
    """
    population = _train_population(settings, inputs, engine)
    return Host(
        inputs.model, population, engine, population_id=inputs.corpus.name, masked_sums=masked
    )


@contextlib.contextmanager
def masked_sums(settings: Settings) -> Iterator[MaskedSums | None]:
    """What masks the sums of this process's nodes; None in a run without secure sums.

    Where no keys are configured, fresh ones are made, for a simulation: they lie in the cache while
    it runs, where its other processes find them, and are deleted at its end.
    """
    runtime = settings.runtime
    if not runtime.secure_sum:
        yield None
    elif runtime.keys is not None:
        yield MaskedSums.of(Path(runtime.keys))
    else:
        with node_keys.temporary(cache.cache_root() / "keys", runtime.nodes) as folder:
            yield MaskedSums.of(folder, kept=False)


def with_keys(config: Mapping[str, Any], masked: MaskedSums | None) -> Mapping[str, Any]:
    """The configuration that nodes in other processes are built from, with their folder of keys."""
    if masked is None:
        return config
    return {**config, "runtime": {**config["runtime"], "keys": str(masked.folder.absolute())}}


def app_from_config(values: Mapping[str, Any]) -> ClientApp:
    """The ClientApp of a process that serves nodes, built from a configuration alone.

    It loads the model and the records at once, so that what is missing shows before a round is
    spent. A process on another machine becomes a node by this function: it needs nothing of the
    server's memory, but the data and the model at the paths of the configuration.

    Args:
        values: the resolved configuration, as `config.yaml` of a run folder holds it.

    Raises:
        ConfigurationError: the configuration is not valid, data or model do not fit it, or keys for
            secure sums are missing.
    """
    third_party.environment()
    settings = validation.parse(OmegaConf.create(dict(values)))
    return client_app(host_of_process(settings))


def host_of_process(settings: Settings) -> Host:
    """Model, records and keys of the nodes of a process that is not the server's.

    Raises:
        ConfigurationError: as `app_from_config`.
    """
    runtime, masked = settings.runtime, None
    if runtime.secure_sum:
        if runtime.keys is None:
            raise ConfigurationError(
                "runtime.keys=null: a node of a federation with runtime.secure_sum=true needs its "
                "folder of keys."
            )
        masked = MaskedSums.of(Path(runtime.keys))
    inputs = run_inputs.build(settings)
    return host(settings, inputs, run_inputs.fit_engine(settings, inputs.model), masked)


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
