"""Noise found by the Edgeworth estimate: the claim stays the certified one, and says so."""

from __future__ import annotations

import pytest

from userdp.server import accounting, budget
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.planning import planner

MNLI = ("plan.sampling_rate=0.005093", "privacy.delta=1e-5", "rounds=3920", "privacy.epsilon=8")


def steered(*more):
    settings, _ = hydra_compose.settings([*MNLI, "privacy.accountant=edgeworth", *more])
    return planner.bare(settings), settings


def test_the_noise_is_that_of_the_paper_and_the_claim_is_above_the_target():
    plan, _ = steered()
    assert plan.mechanism.noise_multiplier == pytest.approx(0.557, rel=0.01)
    assert plan.noise_estimate.epsilon == pytest.approx(8, abs=0.02)
    assert plan.noise_estimate.epsilon <= 8
    assert plan.epsilon.lower > 9  # an estimate that were a bound would be above this


def test_the_claim_is_what_pld_certifies_of_that_noise():
    plan, _ = steered()
    certified = accounting.epsilon([(plan.mechanism.event(), plan.rounds)], plan.delta)
    assert plan.accountant == "pld"
    assert plan.epsilon == certified


def test_the_estimate_neither_cuts_the_rounds_nor_is_shown_as_the_claim():
    plan, settings = steered()
    upper = plan.epsilon.upper
    spent = budget.certified(
        plan.mechanism,
        plan.rounds,
        plan.delta,
        epsilon=upper,
        target=plan.target,
        options=plan.options,
    )
    assert spent.rounds == plan.rounds
    described = planner.described(plan, settings, names=())
    assert described["epsilon"]["upper"] == plan.epsilon.upper
    assert described["steering"]["order"] == 1


def test_a_higher_order_asks_for_more_noise_here():
    first, third = (steered(f"privacy.edgeworth_order={order}")[0] for order in (1, 3))
    assert first.mechanism.noise_multiplier < third.mechanism.noise_multiplier


def test_the_lemma_has_no_estimate():
    with pytest.raises(ConfigurationError, match=r"privacy\.group_bound=lemma"):
        steered("privacy.group_bound=lemma")


def test_a_run_without_noise_has_no_estimate_whatever_the_accountant():
    options = ["strategy=non_private", "privacy.epsilon=null", "privacy.users=100", "cohort=10"]
    settings, _ = hydra_compose.settings([*options, "privacy.accountant=edgeworth"])
    plan = planner.make(settings, 100)
    assert plan.noise_estimate is None
    assert plan.epsilon.upper == float("inf")
