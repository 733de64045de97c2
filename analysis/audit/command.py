"""`userdp audit`: measures a mechanism with canary users, beside its claim.

All users of an audit are invented. It reads no records, and what it prints is public.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from userdp.analysis.audit import audit, broken, terminal, texts
from userdp.analysis.audit.audit import Outcome
from userdp.analysis.audit.options import Options, parse
from userdp.analysis.audit.subject import Subject
from userdp.server.ledger import ledger
from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.config import hydra_compose, stored_config
from userdp.sim.config.settings import Settings
from userdp.sim.console import run_summary
from userdp.sim.planning import planner
from userdp.sim.planning.planner import Plan
from userdp.sim.run_folder.layout import RunFolder

FLAGS = ("--json", "--self-test")
_USERS_PER_COHORT = 5  # where no number of users is declared


def main(arguments: Sequence[str]) -> None:
    """Print the findings as a table, or as JSON; for a run, also store them in its folder.

    Raises:
        ConfigurationError: a setting is wrong, there is no such run, or nothing is claimed.
        StoppedError: a check contradicts the claim, or the self-test missed a fault.
    """
    options, words = parse([item for item in arguments if item not in FLAGS])
    if "--self-test" in arguments:
        _self_test(options, words, "--json" in arguments)
        return
    outcome, figures = _measured(options, words)
    if "--json" in arguments:
        run_summary.print_json(figures)
    else:
        terminal.print_outcome(outcome)
    if outcome.flagged:
        raise StoppedError(f"audit: {terminal.verdict(outcome)}")


def measure(arguments: Sequence[str]) -> dict[str, Any]:
    """The outcome of an audit as JSON values; for a run, also stored in its folder.

    Raises:
        ConfigurationError: as `main`.
    """
    return _measured(*parse(arguments))[1]


def _measured(options: Options, words: Sequence[str]) -> tuple[Outcome, dict[str, Any]]:
    subject, settings, folder = described(words)
    engine = texts.load(settings, options) if options.canaries == "texts" else None
    with terminal.progress(audit.ticks(subject, options, engine), subject.name) as tick:
        outcome = audit.run(subject, options, options.randomness(), tick, engine)
    figures = _described(outcome, options)
    if folder is not None:
        text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
        durable_file.replace(folder.audit, text.encode())
    return outcome, figures


def described(words: Sequence[str]) -> tuple[Subject, Settings, RunFolder | None]:
    """The subject of an audit, its settings, and the folder of the run if there is one.

    Raises:
        ConfigurationError: as `main`.
    """
    if folders := [word for word in words if "=" not in word]:
        if len(words) != 1:
            raise ConfigurationError(
                f"audit {' '.join(words)}: name one run folder, or overrides, not both."
            )
        return _of_run(RunFolder(Path(folders[0])))
    settings, _ = hydra_compose.settings(words)
    privacy = settings.privacy
    if privacy.users is None and settings.plan.sampling_rate is None:
        users = round(_USERS_PER_COHORT * settings.cohort)
        settings = replace(settings, privacy=replace(privacy, users=users))
    return _subject(planner.bare(settings), settings), settings, None


def _of_run(folder: RunFolder) -> tuple[Subject, Settings, RunFolder]:
    """The mechanism of a run, rebuilt from its configuration, under the claim of its statement."""
    settings, _ = stored_config.stored(folder)
    try:
        account = ledger.verify(folder.ledger)
        users, delta = account.header["declared_users"], account.header["delta"]
        event = account.header["event"]
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"audit {folder.path}: {error}") from None
    settings = replace(settings, resume=None)
    plan = planner.make_at(settings, users, delta)
    subject = _subject(plan, settings)
    if subject.event.to_dict() != event:
        raise ConfigurationError(
            f"audit {folder.path}: its configuration gives the event {subject.event.to_dict()}, "
            f"its ledger records {event}; restore the run's own config.yaml."
        )
    return replace(subject, epsilon=_stated(folder, plan)), settings, folder


def _stated(folder: RunFolder, plan: Plan) -> float:
    """Epsilon of the run's statement; of its plan where there is none, or fewer rounds ended it."""
    if not folder.statement.is_file():
        return plan.epsilon.upper
    facts = json.loads(folder.statement.read_text(encoding="utf-8"))
    if facts.get("rounds") != plan.rounds or facts.get("epsilon") is None:
        return plan.epsilon.upper
    return float(facts["epsilon"])


def _subject(plan: Plan, settings: Settings) -> Subject:
    if not plan.mechanism.private:
        raise ConfigurationError(
            f"strategy={settings.strategy.name}: it claims no epsilon, so there is nothing to "
            "audit; choose a private strategy."
        )
    return Subject(
        name=settings.strategy.name,
        mechanism=plan.mechanism,
        event=plan.mechanism.event(),
        rounds=plan.rounds,
        delta=plan.delta,
        epsilon=plan.epsilon.upper,
        options=plan.options,
    )


def _described(outcome: Outcome, options: Options) -> dict[str, Any]:
    return {**outcome.to_dict(), "options": asdict(options)}


def _self_test(options: Options, words: Sequence[str], as_json: bool) -> None:
    """Audit the honest mechanism and its broken twins; every twin must be caught.

    Raises:
        StoppedError: a twin was not caught, or the honest mechanism was flagged.
    """
    honest, _, _ = described(words)
    outcomes = []
    for subject in (honest, *broken.twins(honest)):
        with terminal.progress(audit.ticks(subject, options), subject.name) as tick:
            outcomes.append(audit.run(subject, options, options.randomness(), tick))
    if as_json:
        run_summary.print_json([_described(outcome, options) for outcome in outcomes])
    else:
        terminal.print_self_test(outcomes)
    wrong = [
        outcome.subject.name
        for number, outcome in enumerate(outcomes)
        if bool(outcome.flagged) != (number > 0)  # the first one is honest
    ]
    if wrong:
        raise StoppedError(f"audit --self-test: wrong verdict on {', '.join(wrong)}.")
