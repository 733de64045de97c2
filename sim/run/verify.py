"""Recomputes the claim of a run from its ledger, and compares all that the run wrote with it.

This is the command ``userdp verify RUN``. The chain of a ledger has no key: whoever rewrites
ledger, statement, card, adapter, checkpoint and configuration so that they agree is not found out
by them. A head that was noted elsewhere is what shows it (``--head``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.server import accounting
from userdp.server.accounting import second_opinion
from userdp.server.ledger import hash_chain, ledger
from userdp.server.ledger.ledger import Account
from userdp.server.mechanisms.base import Mechanism
from userdp.server.statement import claim, prose, schema, statement, trust
from userdp.sim.common import foreign_code, renamed, third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.foreign_code import CodeNotLoadedError
from userdp.sim.config import stored_config
from userdp.sim.config.settings import Settings
from userdp.sim.planning import planner
from userdp.sim.run import ledger_header
from userdp.sim.run.evidence import files, findings, mechanism_facts, metrics
from userdp.sim.run.evidence.findings import Findings
from userdp.sim.run_folder import unnoised_values
from userdp.sim.run_folder.layout import RunFolder

# Fields of a statement that do not follow from the ledger.
_ELSEWHERE = ("format", "sweep", "accountant_version", "files")
# Fields of text: other code may have worded them in another way.
_WORDED = ("trust_model", "reasons", "released", "assumptions", "not_covered")


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The claim that follows from a run's ledger, and what it was compared with."""

    account: Account
    statement: Mapping[str, Any]  # rebuilt from the ledger
    stored: bool  # whether the run has a statement; if so, it makes the same claim
    found: Findings  # what else was compared, and what was not there
    second: str  # another accountant's epsilon beside the claim's, in words
    loaded: bool = True  # whether the code of the mechanism was there to describe it

    def text(self) -> str:
        """The text that the command prints."""
        rounds, unfinished = self.account.rounds, len(self.account.unfinished)
        lines = [
            *([] if self.stored else ["There is no privacy statement: the run did not end."]),
            f"Compared with the ledger: {', '.join(self.found.compared) or 'nothing'}.",
            *(f"Not compared: {line}." for line in self.found.lacking),
            f"Head: {self.account.head} (noted elsewhere, it shows a later roll-back: userdp "
            "verify RUN --head HEAD)",
            self.second,
            *self._simulation_only(),
            f"Trust model: {trust.short(self.account.header)}.",
            f"{rounds} rounds intended, {unfinished} of them without a release.",
            prose.claim(self.statement),
        ]
        return "\n".join([*lines, *self._unloaded()])

    def _simulation_only(self) -> list[str]:
        if not self.statement["simulation_only"]:
            return []
        return ["This run wrote values without noise (track.simulation_only), which it leaves out."]

    def _unloaded(self) -> list[str]:
        name = self.statement["strategy"]
        if self.loaded:
            return []
        package = name.partition(".")[0]
        return [
            f"Mechanism of another package: {name}; its code was not loaded, and what it says of "
            f"itself was not compared ({foreign_code.VARIABLE}={package} loads it)."
        ]


def verify(folder: Path, head: str | None = None) -> Verified:
    """Check the ledger of the run in ``folder``, and all other evidence in it against the ledger.

    Args:
        folder: of the run.
        head: of this run's ledger, as it was noted at some time; None: none was noted.

    Code of another package is loaded only where `foreign_code.VARIABLE` allows it.

    Raises:
        ConfigurationError: there is no such run, its chain is broken or lacks ``head``, its events
            are not those of its mechanism, or statement, configuration, metrics, model card,
            adapter or checkpoint contradict it.
    """
    run = RunFolder(folder)
    try:
        with foreign_code.named_by_a_run_folder():
            return _verified(run, head)
    except ConfigurationError as error:
        told = str(error)
        raise ConfigurationError(
            told if told.startswith("verify: ") else f"verify: {run.path}: {told}"
        ) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(
            f"verify: {run.path} holds values that no run writes: {reason}"
        ) from None


def _verified(run: RunFolder, head: str | None) -> Verified:
    found = Findings()
    account = _account(run, head, found)
    settings = _settings(run, account, found)
    header = _completed(account, settings)
    mechanism = None
    if loaded := foreign_code.may_load(header["strategy"]):
        mechanism = mechanism_facts.build(run.ledger, header)
        if settings is not None:
            _check_configuration(run, account, settings, mechanism)
        mechanism_facts.check(run.ledger, account, header, mechanism)
        found.compared.append("the mechanism's own event, noise and sensitivity")
    facts = _facts(run, account)
    stored = _stored(run.statement)
    if stored is not None:
        _check_statement(run, account, stored, facts, _code(settings, mechanism), found)
        files.check_published(run, stored, found)
    files.check_checkpoint(run, account, found)
    if mechanism is not None:
        metrics.check(run, account, mechanism, facts, found, ended=stored is not None)
    _check_inputs_noted(account, found)
    return Verified(
        account=account,
        statement=facts,
        stored=stored is not None,
        found=found,
        second=_second_opinion(run, header, account, facts),
        loaded=loaded,
    )


def _account(run: RunFolder, head: str | None, found: Findings) -> Account:
    try:
        account = ledger.verify(run.ledger)
    except OSError as error:
        raise ConfigurationError(f"verify: {run.ledger}: {error.strerror}.") from None
    except ValueError as error:  # a LedgerError
        raise ConfigurationError(f"verify: {error}") from None
    if head is not None:
        places = [number for number, entry in enumerate(account.entries) if entry["hash"] == head]
        if not places:
            raise ConfigurationError(
                f"verify: --head {head}: {run.ledger} has no such entry: {hash_chain.NOT_IN_CHAIN}."
            )
        after = len(account.entries) - 1 - places[0]
        found.compared.append(f"the noted head, with {after} entries after it")
    return account


def _settings(run: RunFolder, account: Account, found: Findings) -> Settings | None:
    """The stored configuration; None where there is none."""
    if not run.config.is_file():
        if account.format == 1:  # its ledger lacks what the mechanism is built from
            raise ConfigurationError(
                f"verify: {run.config} is missing, without which the events of this run, made by "
                "an older version, cannot be recomputed; restore it."
            )
        found.lacking.append(f"{run.config.name} is not there")
        return None
    try:
        settings, _ = stored_config.stored(run)
    except CodeNotLoadedError as error:
        if account.format == 1:  # its ledger lacks what the mechanism is built from
            raise
        found.lacking.append(f"{run.config.name}: {error}".rstrip("."))
        return None
    except ConfigurationError as error:
        raise ConfigurationError(f"verify: {run.config}: {error}") from None
    found.compared.append(run.config.name)
    return settings


def _completed(account: Account, settings: Settings | None) -> dict[str, Any]:
    """The header, with what its format lacks from the stored configuration."""
    header: dict[str, Any] = renamed.current(account.header)
    if settings is not None and hash_chain.UNRECORDED[account.format]:
        asked = {"cohort": settings.cohort, "strategy_options": dict(settings.strategy.options)}
        header = {**asked, **header}
    return header


def _check_configuration(
    run: RunFolder, account: Account, settings: Settings, mechanism: Mechanism
) -> None:
    """Compare the header with the one that the stored configuration leads to."""
    header = account.header
    users = settings.privacy.users or header["declared_users"]
    z = settings.privacy.noise_multiplier or header["event"]["noise_multiplier"]
    try:
        rebuilt = ledger_header.header(
            settings,
            planner.with_noise(settings, users, z),
            layout=header["adapter_layout"],
            base=header["base_model"],
            rescaled=header["rescaled"],
            revision=header.get("base_revision"),
            dtype=header.get("base_dtype", ""),
            keys=header.get("secure_sum", {}).get("keys", trust.AT_THE_SERVER),
        )
    except KeyError as error:
        raise ConfigurationError(f"verify: {run.ledger} lacks {error} in its header.") from None
    asked = mechanism_facts.comparable(mechanism, hash_chain.plain(rebuilt, "header"))
    asked = ledger_header.continued(asked, header, counted=settings.counts_users)
    known = {
        name: value
        for name, value in asked.items()
        if name in header or name not in hash_chain.UNRECORDED[account.format]
    }
    absent = [name for name in ledger_header.WHERE_ASKED if name in header and name not in asked]
    known |= dict.fromkeys(absent)
    stored = mechanism_facts.comparable(mechanism, renamed.current(header))
    problems = findings.contradictions(
        stored, known, source="the ledger", other=f"in {run.config.name}"
    )
    findings.refuse_unless_empty(run.path, problems)


def _code(settings: Settings | None, mechanism: Mechanism | None) -> str:
    """Hash of the code that runs now; empty where the run's own code was not loaded."""
    if settings is None or mechanism is None:
        return ""
    return ledger_header.code(settings, mechanism)


def _facts(run: RunFolder, account: Account) -> dict[str, Any]:
    """The statement that follows from the ledger."""
    written = unnoised_values.found(run)
    if written and account.format > 1 and not account.simulation_only:
        raise ConfigurationError(
            f"verify: {run.path} holds values without noise (simulation_only), and {run.ledger} "
            "has no note of them."
        )
    try:
        return statement.build(
            account.header,
            account.spent,
            claim.from_ledger(account.header, account.spent),
            ledger_hash=account.head,
            codes=account.codes,
            simulation_only=account.simulation_only or written,
        )
    except KeyError as error:
        raise ConfigurationError(f"verify: {run.ledger} lacks {error} in its header.") from None
    except ValueError as error:  # a header that is no run's
        raise ConfigurationError(f"verify: {error}") from None


def _stored(path: Path) -> dict[str, Any] | None:
    """The stored statement; None where there is none."""
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema.validate(stored)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"verify: {path} is no privacy statement: {error}") from None
    return stored


def _check_statement(
    run: RunFolder,
    account: Account,
    stored: Mapping[str, Any],
    facts: Mapping[str, Any],
    code: str,
    found: Findings,
) -> None:
    """Compare a stored statement with the ledger's, field by field."""
    same_code = account.codes[-1] == code
    for name, value in facts.items():
        skipped = name in _ELSEWHERE or (name in _WORDED and not same_code)
        if skipped or (name in schema.LACKING[stored["format"]] and name not in stored):
            continue
        if stored[name] != value:
            raise ConfigurationError(
                f"verify: {run.statement} says {name}={stored[name]}, the ledger says {value}."
            )
    found.compared.append(run.statement.name)
    if not same_code:
        found.lacking.append(
            "the statement's assumptions and other sentences: other code than today's worded them"
        )


def _check_inputs_noted(account: Account, found: Findings) -> None:
    """Say where a run was resumed without knowing whether its records were the same."""
    if (
        account.format == 1 and len(account.codes) > 1
    ) or hash_chain.INPUTS_UNKNOWN in account.notes:
        found.lacking.append(
            "whether this run was resumed with the records and the base model it started with: not "
            "recorded by the version that started it"
        )


def _second_opinion(
    run: RunFolder, header: Mapping[str, Any], account: Account, facts: Mapping[str, Any]
) -> str:
    """The line about dp-accounting's epsilon of the same rounds.

    Raises:
        ConfigurationError: it is below our certified lower value, so one of the two is wrong.
    """
    name = "Second opinion (pessimistic PLD of dp-accounting)"
    if not facts["noise_multiplier"]:
        return f"{name}: none, since no noise was added."
    third_party.accountants()
    composition = [
        (accounting.RoundEvent.from_dict(event), math.ceil(rounds / header["rounds_per_event"]))
        for event, rounds in account.spent
    ]
    epsilon = second_opinion.epsilon(composition, header["delta"], expected=facts["epsilon"])
    if epsilon is None:
        return f"{name}: none, since it has no event or no figure for these rounds."
    if epsilon < facts["epsilon_lower"]:
        raise ConfigurationError(
            f"verify: {run.ledger}: dp-accounting gives epsilon {epsilon:.6g}, below our certified "
            f"lower value {facts['epsilon_lower']}: one of the two is wrong; report this."
        )
    ours = f"between {facts['epsilon_lower']} and {facts['epsilon']}"
    return f"{name}: epsilon <= {epsilon:.6g}; ours lies {ours}."
