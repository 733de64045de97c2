"""Everything of a run that can be refused, done before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate

from userdp.clients.training.memory import EngineSettings
from userdp.server.ledger import ledger
from userdp.server.optimizers import server_optimizer as optimizer
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Data, Model, Settings
from userdp.sim.planning import planner
from userdp.sim.planning.planner import Plan
from userdp.sim.run import inputs as world
from userdp.sim.run import ledger_header, trackers
from userdp.sim.run.inputs import World

LoadWorld = Callable[[Data, Model, int, str], World]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that may start."""

    settings: Settings
    world: World
    plan: Plan
    optimizer: optimizer.ServerOptimizer
    engine: EngineSettings
    facts: Mapping[str, Any]  # the ledger's header


def prepare(settings: Settings, load: LoadWorld = world.load) -> Prepared:
    """Put a run together; reads data and model, writes nothing but caches.

    Raises:
        ConfigurationError: whatever is wrong.
    """
    _check_folder(settings)
    trackers.check(settings)
    here = load(settings.data, settings.model, settings.seed, settings.device)
    made = plan(settings, here)
    stepped = _optimizer(settings, made, here)
    layout, base = here.model.layout.digest, here.base_name
    return Prepared(
        settings=settings,
        world=here,
        plan=made,
        optimizer=stepped,
        engine=world.engine(settings, here),
        facts=ledger_header.header(
            settings, made, layout=layout, base=base, rescaled=stepped.rescales
        ),
    )


def plan(settings: Settings, here: World) -> Plan:
    """The mechanism of a run in its world, and its price.

    Raises:
        ConfigurationError: as `planning.make`, or more users are here than were declared.
    """
    return planner.make(settings, _declared_users(settings, here))


def check(jobs: Sequence[Settings], load: LoadWorld) -> None:
    """Refuse a sweep of which any job cannot run; those of one world come one after the other.

    Raises:
        ConfigurationError: for a wrong job.
    """
    for job in sorted(jobs, key=lambda job: repr((job.data, job.model, job.device, job.seed))):
        prepare(job, load)


def _check_folder(settings: Settings) -> None:
    """A new run needs a folder of its own, a resumed one something left to do."""
    folder = settings.folder
    path = folder / "ledger.jsonl"
    if settings.resume is None:
        if path.exists():
            raise ConfigurationError(
                f"output={folder}: it holds a run already; go on with it by resume={folder}, or "
                "choose a new folder."
            )
        _check_writable(folder)
        return
    try:
        account = ledger.verify(path)
    except ledger.LedgerError as error:
        raise ConfigurationError(f"resume={folder}: {error}") from None
    released = account.rounds - len(account.unfinished)
    if released and not any((folder / "checkpoint").glob("*.pt")):
        raise ConfigurationError(
            f"resume={folder}: {released} releases are recorded, but checkpoint/ is gone; restore "
            "it, or start a new run."
        )
    if account.rounds >= settings.rounds and (folder / "privacy_statement.json").exists():
        raise ConfigurationError(
            f"resume={folder}: all of its {account.rounds} rounds are spent; start a new run."
        )


def _check_writable(folder: Path) -> None:
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise ConfigurationError(f"output={folder}: {nearest} is a file; choose a folder.")


def _declared_users(settings: Settings, here: World) -> int:
    """N: as declared, or counted once (then listed under the assumptions)."""
    if settings.plan.sampling_rate is not None:
        raise ConfigurationError(
            f"plan.sampling_rate={settings.plan.sampling_rate}: for userdp plan only; a run has "
            "cohort and privacy.users."
        )
    declared = settings.privacy.users
    if declared is not None and declared < len(here.corpus.train):
        raise ConfigurationError(
            f"privacy.users={declared}: the training split has more users; declare all."
        )
    return declared or len(here.corpus.train)


def _optimizer(settings: Settings, plan: Plan, here: World) -> optimizer.ServerOptimizer:
    schedule = settings.schedule
    options = {
        name: value for name, value in settings.optimizer.items() if not name.startswith("_")
    }
    asked = ", ".join(f"optimizer.{name}={value}" for name, value in options.items())
    if not all(math.isfinite(value) for value in options.values() if isinstance(value, float)):
        raise ConfigurationError(f"{asked}: must be finite.")
    factor = optimizer.learning_rate_factor(schedule.name, schedule.warmup, plan.rounds)
    try:
        rule = instantiate(settings.optimizer)
        made = optimizer.ServerOptimizer(here.model.initial.numpy(), rule, factor, schedule.average)
    except ConfigurationError:
        raise
    except (TypeError, ValueError, HydraException) as error:
        raise ConfigurationError(f"{asked}: {error}") from None
    if made.rescales and not plan.mechanism.rescalable:
        raise ConfigurationError(
            f"optimizer=scale_then_privatize: strategy={settings.strategy.name} has noise that is "
            "correlated over rounds, in one space, which this would change; take optimizer=adam."
        )
    return made
