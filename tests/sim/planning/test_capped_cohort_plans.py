"""Plans of capped cohorts: what the cap costs, and which caps are refused."""

from __future__ import annotations

import pytest

from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.planning import planner
from userdp.sim.run import ledger_header


def planned(*overrides):
    settings, _ = hydra_compose.settings(
        ["privacy.users=2164", "strategy.cohort_max=230", *overrides]
    )
    return settings, planner.bare(settings)


def test_the_plan_prints_what_the_cap_costs(capsys):
    settings, plan = planned()
    facts = planner.described(plan, settings, ["pld"])
    assert facts["cohort_cap"] == 230
    assert facts["epsilon_without_cap"] < 0.9 * facts["epsilon"]["upper"]
    assert facts["epsilon"]["upper"] <= 8
    assert cli.main(["plan", "privacy.users=2164", "strategy.cohort_max=260"]) == 0
    assert "without it the same noise gives epsilon <= 7.9" in capsys.readouterr().out


def test_the_header_names_cap_adjacency_and_event():
    settings, plan = planned()
    facts = ledger_header.header(settings, plan, layout="l", base="b")
    assert facts["adjacency"] == "zero-out-one-user"
    assert facts["cohort_cap"] == facts["event"]["cohort_cap"] == 230
    assert facts["event"]["population"] == facts["declared_users"] == 2164


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ["strategy=group_privacy"],
            "strategy.cohort_max=230: no such key",
        ),
        (["strategy.cohort_max=0"], "strategy.cohort_max=0"),
        (["strategy.cohort_max=2.5"], "strategy.cohort_max"),
        (["privacy.accountant=rdp"], "cohort_cap=230"),
    ],
)
def test_what_no_cap_can_be(overrides, reason):
    with pytest.raises(ConfigurationError, match=reason):
        planned(*overrides)


def test_a_bare_rate_knows_no_cap():
    settings, _ = hydra_compose.settings(
        ["plan.sampling_rate=0.1", "privacy.delta=1e-5", "strategy.cohort_max=9"]
    )
    with pytest.raises(ConfigurationError, match=r"strategy\.cohort_max=9"):
        planner.bare(settings)
    assert not hasattr(GroupPrivacy, "cohort_max")
