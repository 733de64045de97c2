"""Prepares a run: checks everything that could stop it, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from userdp.clients import node_keys
from userdp.clients.evaluation import rouge
from userdp.clients.generation import answers, sampling
from userdp.clients.models import language_model
from userdp.clients.tokenization import prompts
from userdp.clients.training.clipping import CLIP_RULES
from userdp.clients.training.memory import EngineSettings
from userdp.server import secure_sum
from userdp.server.ledger import ledger
from userdp.server.optimizers import registry, schedules
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.server.statement import trust
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.data import Data
from userdp.sim.config.settings import Model, Settings
from userdp.sim.inputs import private_prompts, run_inputs
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.planning import planner
from userdp.sim.planning.planner import Plan
from userdp.sim.run import input_digests, ledger_header, trackers
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.runtime import registry as runtimes

LoadInputs = Callable[[Data, Model, int, str], RunInputs]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that has passed all checks and may start."""

    settings: Settings
    inputs: RunInputs
    plan: Plan
    optimizer: ServerOptimizer
    engine: EngineSettings
    header: Mapping[str, Any]  # of the ledger

    @property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return RunFolder(self.settings.folder)


def prepare(settings: Settings, load: LoadInputs = run_inputs.load) -> Prepared:
    """Check the settings, load data and model, and calibrate the noise; writes only caches.

    Args:
        load: loads the inputs; by default from scratch.

    Raises:
        ConfigurationError: something would stop the run before its first round.
    """
    _check_folder(settings)
    trackers.check(settings)
    if settings.rouge.records:
        rouge.check()  # before a model is loaded
    _check_runtime(settings)
    settings = in_its_precision(settings)
    inputs = load(settings.data, settings.model, settings.seed, settings.device)
    _check_sides(settings, inputs)
    _check_prompts(settings, inputs)
    _check_answers(settings, inputs)
    plan = make_plan(settings, inputs)
    CLIP_RULES.find(plan.mechanism.clipping)
    _check_secure_sum(settings, plan)
    optimizer = _optimizer(settings, plan, inputs)
    return Prepared(
        settings=settings,
        inputs=inputs,
        plan=plan,
        optimizer=optimizer,
        engine=run_inputs.fit_engine(settings, inputs.model, inputs.probed),
        header=_header(settings, plan, inputs, rescaled=optimizer.rescales),
    )


def in_its_precision(settings: Settings) -> Settings:
    """The settings of an earlier run, ``resume``, with the precision that it began with.

    It takes the place of ``model.dtype=auto`` alone; a new run keeps that.
    """
    if settings.resume is None or settings.model.dtype != "auto":
        return settings
    began = ledger.verify(RunFolder(settings.folder).ledger).header.get("base_dtype")
    if began not in ("float32", "bfloat16"):  # written by an older version
        return settings
    return replace(settings, model=replace(settings.model, dtype=began))


def _check_secure_sum(settings: Settings, plan: Plan) -> None:
    """Refuse keys of another federation, and sums that cannot be masked without rounding."""
    runtime = settings.runtime
    if not runtime.secure_sum:
        return
    secure_sum.check(plan.mechanism)
    if runtime.keys is None:
        return
    found = len(node_keys.roster(Path(runtime.keys)).keys)
    if found != runtime.nodes:
        raise ConfigurationError(
            f"runtime.keys={runtime.keys}: the roster has {found} nodes, and "
            f"runtime.nodes={runtime.nodes}; make keys for all nodes."
        )


def _header(
    settings: Settings, plan: Plan, inputs: RunInputs, *, rescaled: bool
) -> Mapping[str, Any]:
    header = ledger_header.header(
        settings,
        plan,
        layout=inputs.model.layout.digest,
        base=inputs.base_name,
        rescaled=rescaled,
        revision=inputs.revision,
        dtype=inputs.model.dtype,
        keys=_keys(settings),
    )
    if settings.resume is None:
        return header
    stored = ledger.verify(RunFolder(settings.folder).ledger).header
    return ledger_header.continued(header, stored, counted=settings.privacy.users is None)


def _keys(settings: Settings) -> str:
    """Where the private keys of secure sums are: not at the server, if its folder holds none."""
    folder = settings.runtime.keys
    elsewhere = folder is not None and not node_keys.private_paths(Path(folder))
    return trust.AT_THE_NODES if elsewhere else trust.AT_THE_SERVER


def make_plan(settings: Settings, inputs: RunInputs) -> Plan:
    """The plan of a run on these inputs.

    Raises:
        ConfigurationError: as `planner.make`, or more users than were declared.
    """
    return planner.make(settings, _declared_users(settings, inputs))


def check(jobs: Sequence[Settings], load: LoadInputs) -> None:
    """Prepare every job of a sweep without starting one, ordered so that inputs can be shared.

    Raises:
        ConfigurationError: for the first wrong job.
    """
    for job in sorted(jobs, key=lambda job: repr((job.data, job.model, job.device, job.seed))):
        prepare(job, load)


def _check_folder(settings: Settings) -> None:
    """Refuse a new run in a folder with a run, and a resumed run without a round left."""
    folder = RunFolder(settings.folder)
    if settings.resume is None:
        if ledger.begun(folder.ledger):
            raise ConfigurationError(
                f"output={folder.path}: it holds a run already; resume that run with "
                f"resume={folder.path}, or choose a new folder."
            )
        if folder.released:
            raise ConfigurationError(
                f"output={folder.path}: it holds files of a run without its ledger; choose a new "
                "folder."
            )
        _check_writable(folder.path)
        return
    try:
        account = ledger.verify(folder.ledger)
    except ledger.LedgerError as error:
        raise ConfigurationError(f"resume={folder.path}: {error}") from None
    released = account.rounds - len(account.unfinished)
    if released and not any(folder.checkpoint.glob("*.pt")):
        raise ConfigurationError(
            f"resume={folder.path}: {released} releases are recorded, but checkpoint/ is gone; "
            "restore it, or start a new run."
        )
    if account.rounds >= settings.rounds and folder.complete:
        input_digests.delete(folder)  # if a kill came between the summary and this
        raise ConfigurationError(
            f"resume={folder.path}: the run is complete: all of its {account.rounds} rounds are "
            "spent; start a new run."
        )


def _check_runtime(settings: Settings) -> None:
    runtime = settings.runtime
    asked = runtimes.Asked(nodes=runtime.nodes, options=runtime.options, device=settings.device)
    runtimes.check(runtime.kind, asked)


def _check_writable(folder: Path) -> None:
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise ConfigurationError(f"output={folder}: {nearest} is a file; choose a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"output={folder}: {nearest} cannot be written; choose a folder that can."
        )


def _check_sides(settings: Settings, inputs: RunInputs) -> None:
    """Refuse a part of the data where the server needs more than it holds."""
    path, corpus = settings.data.path, inputs.corpus
    if not len(corpus.heldout):
        raise ConfigurationError(
            f"data.path={path}: it holds the records of one node and none to score; name the "
            "server's folder beside it."
        )
    if not len(corpus.train) and not runtimes.holds_records(settings.runtime.kind):
        raise ConfigurationError(
            f"data.path={path}: it holds no record to train on, and "
            f"runtime={settings.runtime.kind} trains on the records of this process."
        )
    if settings.counts_users and runtimes.holds_records(settings.runtime.kind):
        raise ConfigurationError(
            "privacy.users=null: the nodes hold the records, so the server cannot count the "
            "users; declare an upper bound of their number, privacy.users=N."
        )


def _check_prompts(settings: Settings, inputs: RunInputs) -> None:
    """Refuse prompts of samples that are too long, or the text of a private record.

    How the second depends on private records is told in `private_prompts`.
    """
    asked = settings.samples.prompts
    if not asked or not settings.samples.count or settings.data.label is not None:
        return
    tokenizer, chat = inputs.text_tokenizer, settings.data.chat is not None
    try:
        ids = [prompts.ids(tokenizer, prompt, chat=chat) for prompt in asked]
        sampling.check_lengths(ids, language_model.longest_text(inputs.model.module))
    except ConfigurationError as error:
        raise ConfigurationError(f"samples.prompts: {error}") from None
    if settings.track.simulation_only:
        return
    private = inputs.cached(
        ("private prompt", asked),
        lambda: private_prompts.first_private(asked, inputs.corpus.train, tokenizer),
    )
    if private is not None:
        raise ConfigurationError(
            f"samples.prompts: prompt {private} is the text of a private record; name public "
            "prompts, or set track.simulation_only=true."
        )


def _check_answers(settings: Settings, inputs: RunInputs) -> None:
    """Refuse to score answers where no held-out record has a prompt and one that can be scored."""
    if not settings.rouge.records:
        return
    answers.chosen(
        inputs.corpus.heldout,
        inputs.text_tokenizer,
        seq_len=settings.model.seq_len,
        **asdict(settings.rouge),
    )


def _declared_users(settings: Settings, inputs: RunInputs) -> int:
    """N: as declared, else counted once, which the first sentence of the claim says."""
    if settings.plan.sampling_rate is not None:
        raise ConfigurationError(
            f"plan.sampling_rate={settings.plan.sampling_rate}: for userdp plan only; a run has "
            "cohort and privacy.users."
        )
    declared = settings.privacy.users
    if declared is not None and declared < len(inputs.corpus.train):
        raise ConfigurationError(
            f"privacy.users={declared}: the training split has more users; declare all."
        )
    return declared or len(inputs.corpus.train)


def _optimizer(settings: Settings, plan: Plan, inputs: RunInputs) -> ServerOptimizer:
    schedule = settings.schedule
    options = {key: value for key, value in settings.optimizer.items() if key != "name"}
    factor = schedules.learning_rate_factor(schedule.name, schedule.warmup, plan.rounds)
    make = registry.maker(settings.optimizer["name"], options)
    optimizer = ServerOptimizer(inputs.model.initial.numpy(), make, factor, schedule.average)
    if optimizer.rescales and not plan.mechanism.rescalable:
        raise ConfigurationError(
            f"optimizer={settings.optimizer['name']}: it rescales updates "
            f"before the clip, but strategy={settings.strategy.name} has noise that is correlated "
            "over rounds, in one space, which this would change; take optimizer=adam."
        )
    return optimizer
