"""Small subjects of an audit: every strategy over a few users, with options that take a second."""

from __future__ import annotations

import functools

from userdp.analysis.audit import audit, command
from userdp.analysis.audit.options import Options
from userdp.analysis.audit.subject import Subject

FAST = Options(trials=800, draws=200, count=60, rounds=20, dimension=16, seed=3)
SMALL = ("privacy.users=60", "cohort=12", "rounds=20", "privacy.epsilon=4")
STRATEGIES = {
    "user_wise": (),
    "capped": ("strategy.cohort_max=14",),
    "discrete noise": ("privacy.noise=discrete",),
    "adaptive clip": ("strategy.clip_quantile=0.5", "strategy.clip_bit_noise=6"),
    "group_privacy": ("strategy=group_privacy",),
    "matrix_factorization": ("strategy=matrix_factorization",),
    "groups with coins": ("strategy=matrix_factorization", "strategy.bands=2"),
    "concentrated": (
        *("strategy=concentrated", "privacy.users=400", "cohort=80", "rounds=2"),
        *("privacy.epsilon=8", "strategy.tau=0.01", "strategy.min_weight=20"),
    ),
}


@functools.cache
def subject(strategy: str, *more: str) -> Subject:
    """The honest subject of this strategy."""
    return command.described([*SMALL, *STRATEGIES[strategy], *more])[0]


def audited(subject: Subject, options: Options = FAST) -> audit.Outcome:
    return audit.run(subject, options, options.randomness(), lambda _: None)


def flagged(outcome: audit.Outcome) -> set[str]:
    return {finding.check for finding in outcome.flagged}
