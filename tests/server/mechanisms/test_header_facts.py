"""A mechanism comes back from its header, and a stored state is one that releases can lead to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from userdp.server.mechanisms import header_facts
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise

COMMON = {"users": 200, "cohort": 20, "records_per_user": 3, "clip_norm": 0.5}
NOISED = {**COMMON, "noise_multiplier": 1.5}
ADAPTED = UserWise(**NOISED, adaptive=AdaptiveClip(quantile=0.5))
RUN = {"rounds": 12, "delta": 1e-4, "epsilon": 3.0}
CASES: list[tuple[str, Mechanism, dict[str, object]]] = [
    ("user_wise", UserWise(**NOISED), {}),
    ("user_wise", UserWise(**NOISED, cohort_max=25), {"cohort_max": 25}),
    ("user_wise", ADAPTED, {}),
    ("group_privacy", GroupPrivacy(**NOISED), {}),
    ("concentrated", Concentrated(**NOISED, test_share=0.2), {"test_share": 0.2}),
    ("matrix_factorization", MatrixFactorization(**NOISED), {}),
    ("matrix_factorization", MatrixFactorization(**NOISED, bands=4), {"bands": 4}),
    ("non_private", NonPrivate(users=200, cohort=20, records_per_user=0), {}),
]


@pytest.mark.parametrize(("name", "planned", "options"), CASES)
def test_the_facts_of_a_header_follow_from_a_few_numbers(name, planned, options):
    planned = planned.for_run(**RUN)
    facts = header_facts.of(planned)
    header = {
        **facts,
        "strategy": name,
        "declared_users": 200,
        "cohort": 20,
        "records_per_user": planned.records_per_user or "all",
        "rounds": 12,
        "delta": 1e-4,
        "epsilon_target": 3.0,
        "strategy_options": options,
    }
    rebuilt = header_facts.mechanism(header)
    assert header_facts.of(rebuilt) == facts
    assert rebuilt.queries() == planned.queries()
    fewer = header_facts.mechanism({**header, "cohort": 10})
    assert header_facts.of(fewer) != facts


def test_an_adapted_clip_norm_may_move_and_only_so_far():
    """Every path of 3 rounds at the largest cohort and noise of a million draws is possible."""
    chance, m = np.random.Generator(np.random.PCG64(3)), ADAPTED.expected_units
    counts = chance.poisson(m, 1_000_000)
    noise = ADAPTED.adaptive.bit_std(m) * chance.standard_normal(1_000_000)
    for share in (
        0.5 + (counts.max() / 2 + noise.max()) / m,
        0.5 - (counts.max() / 2 - noise.min()) / m,
    ):
        norm = ADAPTED.clip_norm
        for _ in range(3):
            norm = ADAPTED.adaptive.next_norm(norm, share)
        assert ADAPTED.may_become(replace(ADAPTED, clip_norm=norm), 3)
    furthest = math.exp(3 * ADAPTED.adaptive.largest_step(m))
    assert furthest < 20
    for norm in (0.5 * furthest * 1.01, 0.5 / furthest / 1.01):
        assert not ADAPTED.may_become(replace(ADAPTED, clip_norm=norm), 3)


@pytest.mark.parametrize("change", [{"clip_norm": 0.51}, {"noise_multiplier": 1.4}, {"users": 201}])
def test_a_fixed_mechanism_becomes_itself_alone(change):
    mechanism = UserWise(**NOISED)
    assert mechanism.may_become(replace(mechanism), 5)
    assert not mechanism.may_become(replace(mechanism, **change), 5)


@pytest.mark.parametrize(
    ("tested", "passed", "possible"), [(3, 2, True), (3, 4, False), (6, 1, False)]
)
def test_counts_of_tests_are_those_of_the_rounds(tested, passed, possible):
    mechanism = Concentrated(**NOISED).for_run(**RUN)
    later = replace(mechanism, rounds_tested=tested, rounds_passed=passed)
    assert mechanism.may_become(later, 5) == possible
