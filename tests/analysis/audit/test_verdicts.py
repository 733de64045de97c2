"""Broken twins are caught by the checks of their fault; honest mechanisms are not flagged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers import audited
from userdp.analysis.audit import broken, command, repeated

pytestmark = pytest.mark.slow  # whole runs

EPSILON = "a round it takes part in, others are silent"
COINS, OPPOSED = "a round with coins, others are silent", "a round with coins, others oppose it"
SENSITIVITY, NOISE = "sensitivity of the sum", "amount of noise"
ONCE, SIZE = "a unit takes part once", "size of a cohort"
QUICK = ("user_wise", "group_privacy", "discrete noise")
SOME_SLOW = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in audited.STRATEGIES
]
CAUGHT_BY = {  # checks that must flag each fault of user-wise rounds
    "noise / 3": {EPSILON, NOISE},
    "noise 3 % short": {NOISE},
    "clip off": {EPSILON, SENSITIVITY},
    "fixed cohort": {SIZE},
    "with replacement": {ONCE, SIZE},
    "a user twice": {SENSITIVITY, ONCE, SIZE},
    "lanes that leak": {EPSILON, SENSITIVITY},
}


@pytest.mark.parametrize("kind", CAUGHT_BY)
def test_every_fault_is_caught_by_its_checks(kind):
    twin = broken.KINDS[kind](audited.subject("user_wise"))
    assert audited.flagged(audited.audited(twin)) >= CAUGHT_BY[kind]


def test_every_kind_of_fault_is_tested():
    assert set(CAUGHT_BY) == set(broken.KINDS)


@pytest.mark.parametrize("strategy", SOME_SLOW)
def test_an_honest_mechanism_is_not_flagged_and_a_third_of_its_noise_is(strategy):
    options = replace(audited.FAST, trials=500, draws=100)
    subject = audited.subject(strategy)
    outcome = audited.audited(subject, options)
    assert not audited.flagged(outcome)
    assert {f.check: f.decisive for f in outcome.findings}["amount of noise"] > 0.97
    weak = audited.audited(broken.KINDS["noise / 3"](subject), options)
    caught = audited.flagged(weak)
    assert NOISE in caught
    assert {name for name in caught if name.startswith("a round ")}
    assert len(broken.twins(subject)) >= 5


def test_a_mechanism_of_another_package_is_audited_by_what_it_declares(monkeypatch):
    """Its clip rule, too: it bounds four layers one by one."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "extension")
    name = "strategy.name=toys.per_layer.PerLayer"
    subject = command.described([*audited.SMALL, name])[0]
    options = replace(audited.FAST, trials=500, draws=100)
    assert not audited.flagged(audited.audited(subject, options))
    twice = broken.KINDS["a user twice"](subject)
    assert audited.flagged(audited.audited(twice, options)) >= {SENSITIVITY, ONCE}


def epsilons(subject, trials):
    """Lower bounds at 95 %, by check."""
    options, randomness = replace(audited.FAST, trials=trials), audited.FAST.randomness()
    findings = repeated.checks(subject, options, randomness, 1e-4, lambda _: None)
    return {finding.check: finding.measured for finding in findings}


def test_the_bound_of_an_honest_mechanism_is_near_its_claim():
    """Not vacuous: some trials of a round show most of the epsilon of the whole run."""
    subject = audited.subject("user_wise")
    assert 0.6 * subject.epsilon < epsilons(subject, 3000)[EPSILON] <= subject.epsilon


@pytest.mark.trust
def test_a_user_twice_leaks_more_than_the_claim():
    twice = broken.KINDS["a user twice"](audited.subject("user_wise"))
    assert epsilons(twice, 4000)[COINS] > twice.epsilon


@pytest.mark.trust
def test_a_fixed_cohort_leaks_more_than_coins_where_others_oppose():
    """The same marginal rate, yet one user's presence keeps another out: a shift of 2 C."""
    subject = audited.subject("user_wise")
    fixed = broken.KINDS["fixed cohort"](subject)
    coins, fixed = (epsilons(one, 40000)[OPPOSED] for one in (subject, fixed))
    assert coins < subject.epsilon < fixed


@pytest.mark.trust
@pytest.mark.parametrize("strategy", audited.STRATEGIES)
def test_an_honest_mechanism_is_never_flagged_in_20_tries(strategy):
    """By fresh coins and noise; all checks together fail once in 1,000 audits.

    The rules of flagging are the same for all strategies: the others have fewer tries.
    """
    options = replace(audited.FAST, seed=None, trials=3000)
    for _ in range(20 if strategy == "user_wise" else 2):
        assert not audited.flagged(audited.audited(audited.subject(strategy), options))
