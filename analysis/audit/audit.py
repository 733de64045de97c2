"""Audits one subject: all checks, at a confidence that is corrected for their number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.analysis.audit import one_run, participation, repeated, texts
from userdp.analysis.audit.finding import Finding
from userdp.analysis.audit.options import Options, Randomness
from userdp.analysis.audit.repeated import Tick
from userdp.analysis.audit.subject import Subject
from userdp.analysis.audit.texts import Engine

Check = Callable[[Subject, Options, Randomness, float, Tick], list[Finding]]
_CHECKS: Sequence[Check] = (repeated.checks, participation.checks, one_run.checks)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an audit of one subject found."""

    subject: Subject
    findings: Sequence[Finding]
    seconds: float

    @property
    def flagged(self) -> list[Finding]:
        """The findings that contradict the claim."""
        return [finding for finding in self.findings if finding.flagged]

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        subject = self.subject
        return {
            "name": subject.name,
            "mechanism": subject.mechanism.console(),
            "epsilon": subject.epsilon,
            "delta": subject.delta,
            "rounds": subject.rounds,
            "event": subject.event.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "broken": bool(self.flagged),
            "seconds": self.seconds,
        }


def run(
    subject: Subject,
    options: Options,
    randomness: Randomness,
    tick: Tick,
    engine: Engine | None = None,
) -> Outcome:
    """Audit a subject.

    Args:
        tick: called as trials are over; `ticks` in all.
        engine: a model that trains canary users with invented texts; None leaves them out.
    """
    begin, findings = time.monotonic(), []
    failure = options.false_alarms / random_checks(subject, engine)
    for check in _CHECKS:
        findings += check(subject, options, randomness, failure, tick)
    if engine is not None:
        findings += texts.checks(subject, engine, options, randomness, failure, tick)
    return Outcome(subject=subject, findings=findings, seconds=time.monotonic() - begin)


def random_checks(subject: Subject, engine: Engine | None = None) -> int:
    """How many findings have a random error; each may be wrong with its share of the whole."""
    plain = participation.RANDOM_CHECKS + one_run.RANDOM_CHECKS
    return repeated.random_checks(subject) + plain + (texts.RANDOM_CHECKS if engine else 0)


def ticks(subject: Subject, options: Options, engine: Engine | None = None) -> int:
    """How often an audit of this subject ticks."""
    repeats = len(repeated.arms(subject)) + (engine is not None)
    trials = 2 * repeats * subject.affordable(options.trials) + subject.affordable(options.draws)
    rounds = min(subject.rounds, options.rounds)
    return trials + rounds + (texts.ticks(subject, options) if engine else 0)
