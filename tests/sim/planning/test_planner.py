"""Plans against published figures, the calibration table and closed forms."""

from __future__ import annotations

import json
import time

import pytest

from userdp.server import accounting
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.planning import planner

KEYS = {
    *("strategy", "records_per_user", "rounds", "sampling_rate", "expected_cohort", "delta"),
    *("noise_multiplier", "epsilon", "accountants", "noise_std_on_mean"),
}
# (q, z, T, k, delta): accountant or bound -> epsilon.
# By dp-accounting and Opacus; the lemma over a PLD at an interval of 1e-4 (at 1e-3 it is looser).
LEMMA = "privacy.group_bound=lemma"
G1 = (0.01, 1.0, 1000, 1, 1e-6)
G2 = (0.01, 1.0, 500, 1, 1e-5)
GROUPS = [
    ((0.01, 1.0, 1000, 4, 1e-6), 10.016, 13.80),
    ((0.01, 4.0, 1000, 10, 1e-6), 3.889, 4.015),
    ((0.001, 1.0, 2000, 10, 1e-6), 3.035, 3.545),
]
# epsilon -> z of user-wise, then k -> z of Group Privacy by mixture and by lemma;
# N = 2000, 64 users a step, q = .032, T = 500, delta = 1e-5.
TABLE = {
    1: (2.832, {2: (5.463, 5.485), 5: (13.450, 13.681), 10: (26.796, 28.566)}),
    3: (1.266, {2: (2.181, 2.216), 5: (5.104, 5.217), 10: (10.057, 10.348)}),
    8: (0.780, {2: (1.144, 1.212), 5: (2.333, 2.523), 10: (4.433, 4.819)}),
}


def planned(*overrides: str) -> tuple[planner.Plan, dict]:
    settings, _ = hydra_compose.settings(overrides)
    plan = planner.bare(settings)
    return plan, planner.described(plan, settings)


def epsilon_of(setting: tuple, *overrides: str, accountants: list[str]) -> dict[str, dict]:
    rate, z, rounds, k, delta = setting
    strategy = "user_wise" if k == 1 else "group_privacy"
    settings, _ = hydra_compose.settings(
        [
            f"strategy={strategy}",
            f"strategy.records_per_user={k}",
            f"plan.sampling_rate={rate}",
            f"privacy.noise_multiplier={z}",
            f"privacy.delta={delta}",
            f"rounds={rounds}",
            *overrides,
        ]
    )
    plan = planner.bare(settings)
    facts = planner.described(plan, settings, accountants)
    return {"claim": facts["epsilon"], **facts["accountants"]}


def check_matches(figures: dict, name: str, published: float, share: float = 0.01) -> None:
    """Within 1 % of the published figure, and never below what is certified from below.

    A finer grid than the published one may give less: then it must bracket tightly itself.
    """
    epsilon, lower = figures[name]["epsilon"], figures["claim"]["lower"]
    assert epsilon >= lower
    assert epsilon <= published * (1 + share)
    assert epsilon >= published * (1 - share) or epsilon <= lower * (1 + share)


@pytest.mark.parametrize(
    ("setting", "published"),
    [
        (G1, {"pld": 2.1245, "prv": 2.135, "rdp": 2.437}),
        (G2, {"pld": 1.3261, "prv": 1.3362, "rdp": 1.653}),
    ],
)
def test_single_records_by_three_accountants(setting, published):
    figures = epsilon_of(setting, accountants=list(published))
    for name, figure in published.items():
        check_matches(figures, name, figure)
    assert figures["claim"]["upper"] <= figures["claim"]["lower"] * 1.01


@pytest.mark.parametrize(("setting", "mixture"), [(s, mixture) for s, mixture, _ in GROUPS])
def test_groups_by_mixture(setting, mixture):
    check_matches(epsilon_of(setting, accountants=["pld"]), "pld", mixture)


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "lemma"), [(s, lemma) for s, _, lemma in GROUPS])
def test_groups_by_lemma(setting, lemma):
    check_matches(epsilon_of(setting, LEMMA, accountants=["pld"]), "pld", lemma)


def test_a_group_of_one_is_the_sampled_gaussian():
    one = epsilon_of((*G1[:3], 1, 1e-6), "strategy=group_privacy", accountants=["pld"])
    check_matches(one, "pld", 2.1245)


def test_five_records_a_user():
    figures = epsilon_of((0.01, 4.0, 500, 5, 1e-5), accountants=["pld", "rdp"])
    check_matches(figures, "pld", 1.089)
    check_matches(figures, "rdp", 1.217)


@pytest.mark.parametrize(
    ("z", "k", "published"), [(1.266, 1, 2.99843), (5.104, 5, 2.99990)], ids=["one", "five"]
)
def test_calibrated_noise_gives_its_epsilon_back(z, k, published):
    check_matches(epsilon_of((0.032, z, 500, k, 1e-5), accountants=["pld"]), "pld", published)


def _calibrated(epsilon: float, *overrides: str) -> planner.Plan:
    options = [f"privacy.epsilon={epsilon}", "privacy.users=2000", "cohort=64", "rounds=500"]
    plan = plan_of(*options, "privacy.delta=1e-5", *overrides)
    assert plan.epsilon.upper <= epsilon
    assert plan.epsilon.lower <= plan.epsilon.upper <= 1.01 * plan.epsilon.lower
    return plan


def plan_of(*overrides: str) -> planner.Plan:
    return planner.bare(hydra_compose.settings(overrides)[0])


@pytest.mark.parametrize("epsilon", TABLE)
def test_calibration_of_user_wise(epsilon):
    z = _calibrated(epsilon).mechanism.noise_multiplier
    assert z == pytest.approx(TABLE[epsilon][0], rel=0.01)


@pytest.mark.parametrize(("epsilon", "k"), [(e, k) for e in TABLE for k in TABLE[e][1]])
def test_calibration_of_group_privacy(epsilon, k):
    """And the noise on the mean: z C / (cohort k) beside z C / cohort."""
    group = ["strategy=group_privacy", f"strategy.records_per_user={k}"]
    mixture, _ = TABLE[epsilon][1][k]
    plan = _calibrated(epsilon, *group)
    assert plan.mechanism.noise_multiplier == pytest.approx(mixture, rel=0.01)
    assert plan.mechanism.noise_std / plan.mechanism.expected_units == pytest.approx(
        plan.mechanism.noise_multiplier / (64 * k)
    )


@pytest.mark.parametrize(("epsilon", "k"), [(e, k) for e in TABLE for k in TABLE[e][1]])
def test_the_lemma_at_its_published_noise(epsilon, k):
    setting = (0.032, TABLE[epsilon][1][k][1], 500, k, 1e-5)
    check_matches(epsilon_of(setting, LEMMA, accountants=["pld"]), "pld", epsilon)


def test_the_schema_of_the_json(capsys):
    arguments = ["plan", "privacy.users=2164", "privacy.epsilon=3", "--json"]
    assert cli.main(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == KEYS
    assert set(facts["epsilon"]) == {"lower", "upper"}
    assert set(facts["accountants"]) == {"pld", "prv", "rdp"}
    for figures in facts["accountants"].values():
        assert set(figures) == {"epsilon", "noise_multiplier", "certified"}
        assert figures["noise_multiplier"] >= 0.99 * facts["noise_multiplier"]
    assert facts["sampling_rate"] == 200 / 2164
    assert facts["expected_cohort"] == 200
    assert facts["delta"] == 1 / 21640
    assert facts["noise_std_on_mean"] == pytest.approx(facts["noise_multiplier"] / 200)
    assert facts["epsilon"]["lower"] <= facts["epsilon"]["upper"] <= 3


def test_infinite_is_null(capsys):
    assert cli.main(["plan", "privacy.users=1000", "strategy=non_private", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == KEYS
    assert facts["epsilon"] == {"lower": None, "upper": None}
    assert facts["accountants"] == {}
    assert facts["noise_std_on_mean"] == 0


def test_group_privacy_counts_slots():
    plan, facts = planned(
        "strategy=group_privacy",
        "strategy.records_per_user=3",
        "privacy.users=1000",
        "cohort=50",
        "privacy.noise_multiplier=4",
        "rounds=10",
    )
    assert (facts["sampling_rate"], facts["expected_cohort"]) == (0.05, 150)
    assert facts["noise_std_on_mean"] == pytest.approx(4 / 150)
    assert all(figures["noise_multiplier"] is None for figures in facts["accountants"].values())
    assert plan.mechanism.event().group_size == 3


def test_a_printed_noise_multiplier_is_the_one_that_is_used():
    """Rounded up to six digits before it is accounted."""
    plan = plan_of("privacy.users=1000", "cohort=100", "privacy.epsilon=2", "rounds=20")
    z = plan.mechanism.noise_multiplier
    assert float(f"{z:.6g}") == z
    again = accounting.epsilon([(plan.mechanism.event(), 20)], plan.delta)
    assert again.upper == plan.epsilon.upper <= 2


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "privacy.users=None"),
        (["plan.sampling_rate=0.1"], "privacy.delta=None"),
        (["plan.sampling_rate=0.1", "privacy.delta=1e-5", "privacy.users=9"], "privacy.users=9"),
        (["plan.sampling_rate=2", "privacy.delta=1e-5"], "plan.sampling_rate=2"),
        (["privacy.users=1000", "privacy.delta=0.001"], "privacy.delta=0.001"),
        (["privacy.users=100"], "cohort=200"),
        (["privacy.users=1000", "strategy=group_privacy", "privacy.accountant=prv"], "mixture"),
        (["privacy.users=1000", "privacy.epsilon=1e-300"], "privacy.epsilon=1e-300"),
    ],
)
def test_what_no_plan_can_be_made_of(overrides, reason):
    with pytest.raises(ConfigurationError, match=f"^.*{reason}"):
        planned(*overrides)


def test_a_large_delta_is_pointed_out(capsys):
    assert cli.main(["plan", "privacy.users=1000", "privacy.delta=5e-4"]) == 0
    out, err = capsys.readouterr()
    assert err == "userdp: warning: privacy.delta=0.0005 is above the default 1/(10 N) = 0.0001.\n"
    assert "0.0005" in out


def test_a_plan_takes_seconds():
    begin = time.perf_counter()
    plan_of("privacy.users=2164", "privacy.epsilon=3")
    assert time.perf_counter() - begin < 3
