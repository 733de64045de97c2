"""Alternatives against plans made one by one, sampled users, and rows worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdp.server.accounting import accountants
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.planning import alternatives, planner

ASKED = ["privacy.users=2000", "cohort=64", "rounds=500", "privacy.epsilon=3", "privacy.delta=1e-5"]
RECORDS = "plan.records_per_user=[1,1,2,5,12,106]"


def advice(*overrides: str) -> list[dict]:
    settings, _ = hydra_compose.settings([*ASKED, *overrides])
    plan = planner.bare(settings)
    return alternatives.advice(plan, settings, alternatives=True)["alternatives"]


def row_of(rows: list[dict], strategy: str, k: int) -> dict:
    [row] = [row for row in rows if (row["strategy"], row["records_per_user"]) == (strategy, k)]
    return row


@pytest.mark.parametrize("strategy", ["user_wise", "group_privacy"])
@pytest.mark.parametrize("k", [2, 5])
def test_a_row_is_the_plan_of_its_strategy_and_k(strategy, k):
    row = row_of(advice("plan.gradients=320", "plan.ks=[2,5]"), strategy, k)
    settings, _ = hydra_compose.settings(
        [*ASKED, f"strategy={strategy}", f"strategy.records_per_user={k}", f"cohort={320 / k}"]
    )
    alone = planner.described(planner.bare(settings), settings, [])
    for key in ("sampling_rate", "noise_multiplier", "epsilon", "records_per_user", "strategy"):
        assert row[key] == alone[key]
    assert row["noise_std_on_mean_per_clip_norm"] == alone["noise_std_on_mean"]  # C = 1


def test_every_row_draws_the_same_gradients_at_the_same_rate():
    """By default those of the configuration: 64 users at k = 4."""
    for row in advice("plan.ks=[2,4,8]"):
        k = row["records_per_user"]
        assert row["cohort"] * k == pytest.approx(256)
        assert row["sampling_rate"] == pytest.approx(256 / (2000 * k))
        assert row["epsilon"]["upper"] <= 3


def test_rows_are_ranked_by_noise_and_a_group_of_one_is_user_wise():
    rows = advice("plan.gradients=320")
    noise = [row["noise_std_on_mean_per_clip_norm"] for row in rows]
    assert noise == sorted(noise)
    one, group = row_of(rows, "user_wise", 1), row_of(rows, "group_privacy", 1)
    assert one["noise_multiplier"] == group["noise_multiplier"]
    for k, published in ((2, 0.86), (5, 0.81), (10, 0.79)):  # at q = .032, eps 3: other q, so near
        ratio = (
            row_of(rows, "group_privacy", k)["noise_std_on_mean_per_clip_norm"]
            / row_of(rows, "user_wise", k)["noise_std_on_mean_per_clip_norm"]
        )
        assert ratio < 1
        if k == 5:  # cohort 64: the published rate itself
            assert ratio == pytest.approx(published, abs=0.01)


def test_what_is_impossible_is_listed_last_with_its_reason():
    rows = advice("plan.gradients=4000", "plan.ks=[1,4]")
    assert [row["records_per_user"] for row in rows] == [4, 4, 1, 1]
    for row in rows[2:]:
        assert "cohort=4000" in row["reason"]
        assert row["noise_std_on_mean_per_clip_norm"] is None
        assert row["noise_multiplier"] is None


def test_an_accountant_without_mixture_leaves_user_wise():
    rows = advice("privacy.accountant=rdp", "rounds=5", "plan.ks=[2]")
    assert row_of(rows, "user_wise", 2)["reason"] is None
    assert "mixture" in row_of(rows, "group_privacy", 2)["reason"]


def test_real_gradients_by_hand():
    """Half of the users have 1 record, half 1 to 3, evenly: min(records, 2) is 1 and 1.75."""
    rows = advice("plan.records_per_user=[1,1,3]", "plan.gradients=200", "plan.ks=[2]")
    user, group = row_of(rows, "user_wise", 2), row_of(rows, "group_privacy", 2)
    assert user["real_gradients"] == pytest.approx(100 * (1 + 1.75) / 2)
    assert group["real_gradients"] == pytest.approx(200)
    assert group["real_gradients_without_resampling"] == user["real_gradients"]


def test_users_without_records_are_not_filled():
    """A quarter has less than one record, half of one on average: not 200 but 175."""
    rows = advice("plan.records_per_user=[0,1,5,5,5]", "plan.gradients=200", "plan.ks=[2]")
    assert row_of(rows, "group_privacy", 2)["real_gradients"] == pytest.approx(175)


def test_unknown_records_stay_unknown():
    assert {row["real_gradients"] for row in advice("plan.ks=[2]")} == {None}


@given(
    quantiles=st.lists(st.floats(0, 300), min_size=1, max_size=8).map(sorted),
    k=st.integers(1, 50),
)
def test_the_capped_mean_is_that_of_sampled_users(quantiles, k):
    places = (np.arange(20_000) + 0.5) / 20_000
    records = np.interp(places, np.linspace(0, 1, len(quantiles)), quantiles)
    expected = np.minimum(records, k).mean()
    assert alternatives.mean_of_capped(quantiles, k) == pytest.approx(expected, abs=1e-3 * (1 + k))


def test_the_command_prints_a_ranking_that_fits(capsys):
    assert cli.main(["plan", "--all", *ASKED, RECORDS, "plan.tuning_runs=10"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "The signal is not known" in out
    assert "unfilled" in out
    assert "geometric number of runs" in out


def test_the_json_holds_alternatives_and_tuning(capsys, monkeypatch):
    monkeypatch.setattr(accountants, "certified_names", lambda: ("pld",))  # the others are slow
    arguments = ["plan", "--all", "--json", *ASKED, "plan.ks=[1,100]", "plan.tuning_runs=3"]
    assert cli.main(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["alternatives"]) == 4
    assert facts["tuning"]["runs"] == 3
    single = facts["epsilon"]["upper"]
    assert single < facts["tuning"]["composed"]["upper"] < 3 * single
    assert set(facts["tuning"]["repeat_and_select"]) == {"logarithmic", "geometric"}


@pytest.mark.parametrize("bound", ["mixture", "lemma"])
def test_tuning_of_group_privacy_needs_the_lemma(capsys, bound):
    arguments = [*ASKED, "rounds=20", "strategy=group_privacy", "plan.tuning_runs=5"]
    assert cli.main(["plan", *arguments, f"privacy.group_bound={bound}"]) == 0
    assert ("not available" in capsys.readouterr().out) == (bound == "mixture")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["strategy.records_per_user=all"], "plan.gradients"),
        (["privacy.epsilon=null", "privacy.noise_multiplier=1"], "privacy.noise_multiplier=1"),
        (["strategy=non_private"], "privacy.epsilon"),
        (["privacy.accountant=edgeworth"], "privacy.accountant=edgeworth"),
        (["plan.gradients=0"], "plan.gradients=0"),
        (["plan.gradients=-1"], "plan.gradients=-1"),
        (["plan.ks=[0]"], r"plan.ks"),
        (["plan.ks=[1.5]"], r"plan.ks"),
        (["plan.records_per_user=[2,1]"], "ascending"),
        (["plan.records_per_user=[]"], "ascending"),
        (["plan.records_per_user=[-1,1]"], "plan.records_per_user"),
        (["plan.tuning_runs=0"], "plan.tuning_runs"),
    ],
)
def test_what_cannot_be_compared(overrides, reason):
    with pytest.raises(ConfigurationError, match=reason):
        advice(*overrides)


def test_all_needs_declared_users():
    settings, _ = hydra_compose.settings(["plan.sampling_rate=0.1", "privacy.delta=1e-5"])
    with pytest.raises(ConfigurationError, match=r"privacy\.users=None"):
        alternatives.advice(planner.bare(settings), settings, alternatives=True)
    assert math.isfinite(planner.bare(settings).epsilon.upper)


def test_tuning_needs_a_private_strategy():
    settings, _ = hydra_compose.settings(
        ["privacy.users=1000", "strategy=non_private", "plan.tuning_runs=2"]
    )
    with pytest.raises(ConfigurationError, match="not private"):
        alternatives.advice(planner.bare(settings), settings, alternatives=False)
