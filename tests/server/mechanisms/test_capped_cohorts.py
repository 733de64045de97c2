"""Capped cohorts: a uniformly random subset stays, and the account is of that event alone."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers import small_world, tiny
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.server import accounting
from userdp.server.accounting.pld import truncated_poisson
from userdp.server.mechanisms import base, sampling
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.statement import schema
from userdp.sim import cli
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.planning import planner
from userdp.sim.run import ledger_header

G3 = {120: 6.524, 130: 4.921, 140: 3.126, 150: 2.138, 160: 2.125, 200: 2.125}
CAPPED = accounting.RoundEvent(
    sampling_rate=0.01, noise_multiplier=1.0, population=10_000, cohort_cap=150
)
USER = UserWise(
    users=40, cohort=10, records_per_user=2, clip_norm=0.02, noise_multiplier=1.3, cohort_max=8
)


def stream(number=1):
    return rng.Secrets(replay_seed=3).stream("cohort", number)


# --- the subset ----------------------------------------------------------------------------------


def first_come(_, positions, cap):
    return positions[:cap]


def p_value(subset, rounds=4000):
    """Chi-square of how often each of ten members of an over-full cohort is kept."""
    members = np.arange(0, 50, 5)
    kept = np.concatenate([subset(stream(number), members, 4) for number in range(rounds)])
    counts = np.bincount(kept // 5, minlength=10)
    # A member is kept or not: the counts of one draw are dependent, which shrinks their variance.
    variance = rounds * 0.4 * 0.6 * 10 / 9
    return stats.chi2.sf(((counts - rounds * 0.4) ** 2).sum() / variance, 9)


def test_every_member_of_an_overfull_cohort_is_kept_equally_often():
    assert p_value(sampling.random_subset) > 1e-3


def test_taking_the_first_who_come_fails_the_same_test():
    assert p_value(first_come) < 1e-6


def test_pairs_are_kept_together_as_often_as_chance_has_it():
    kept = [frozenset(sampling.random_subset(stream(n), np.arange(5), 2)) for n in range(5000)]
    pairs = [frozenset(pair) for pair in itertools.combinations(range(5), 2)]
    assert stats.chisquare([kept.count(pair) for pair in pairs]).pvalue > 1e-3


@given(st.integers(0, 60), st.integers(1, 40), st.integers(0, 10**6))
def test_a_subset_has_the_cap_or_all_in_ascending_order(size, cap, number):
    members = np.arange(size) * 3
    kept = sampling.random_subset(stream(number), members, cap)
    assert len(kept) == min(size, cap)
    assert set(kept) <= set(members)
    assert (np.diff(kept) > 0).all()


def test_no_round_has_more_users_than_the_cap_and_each_takes_part_at_the_declared_rate():
    counts, rounds = np.zeros(40), 4000
    for number in range(rounds):
        users = USER.draw(stream(number), number).users
        assert len(users) <= 8
        counts[users] += 1
    rate = truncated_poisson.inclusion_rate(USER.event())
    assert 0.15 < rate < 0.2  # fewer than the coins' 0.25
    spread = ((counts - rounds * rate) ** 2).sum() / (rounds * rate * (1 - rate))
    assert 1e-4 < stats.chi2.sf(spread, 40) < 1 - 1e-4
    assert abs(counts.sum() - rounds * 40 * rate) < 5 * 2 * math.sqrt(rounds)


def test_smaller_stacks_drop_nobody():
    model = tiny.language_model()
    units, sums = tiny.ragged_units(12), []
    for size in (16, 4096):
        engine = EngineSettings(max_tokens=size, max_lanes=size)
        sums.append(
            cohort_update.cohort_sum(
                model, model.initial, units, clip_norm=0.02, local=cohort_update.LocalTraining(),
                engine=engine,
            )
        )  # fmt: skip
    assert sums[0].figures["cohort_size"] == sums[1].figures["cohort_size"] == 12
    assert sums[0].figures["failed_units"] == sums[1].figures["failed_units"] == 0
    torch.testing.assert_close(sums[0].total, sums[1].total, atol=1e-6, rtol=1e-4)


def one_round(folder, population, seed):
    """Who was asked, and the sum before noise."""
    folder.mkdir()
    run = tiny.federation(folder, USER, population, replay_seed=seed)
    run.run()
    [message] = run.grid.sent
    return message.content["assignment"]["users"], run.total


def test_an_emptied_user_keeps_the_place_and_moves_the_sum_by_at_most_the_clip_norm(tmp_path):
    """Zero-out neighbours: the same cohorts, of which one member has nothing to say."""
    taking_part, people = 0, tiny.people(40)
    for seed in range(12):
        asked, whole = one_round(tmp_path / f"whole{seed}", people, seed)
        again, emptied = one_round(tmp_path / f"emptied{seed}", people.emptied(7), seed)
        assert asked == again
        moved = np.linalg.norm(whole - emptied)
        assert moved <= USER.clip_norm * (1 + 1e-5)
        assert (moved > 0.9 * USER.clip_norm) == (7 in asked)
        taking_part += 7 in asked
    assert 0 < taking_part < 12


# --- the account ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("cap", "published"), G3.items())
def test_the_cost_of_a_cap_is_the_published_one(cap, published):
    event = dataclasses.replace(CAPPED, cohort_cap=cap)
    figure = accounting.epsilon([(event, 1000)], 1e-6)
    assert figure.upper == pytest.approx(published, rel=0.01)
    assert figure.lower <= figure.upper
    assert figure.lower == pytest.approx(2.12, rel=0.01)


@pytest.mark.parametrize("delta", [1e-4, 1e-6, 1e-9, 1e-11])
def test_a_cap_that_is_never_met_costs_nothing(delta):
    """Against our own certified ends of the uncapped round."""
    capped = accounting.epsilon([(dataclasses.replace(CAPPED, cohort_cap=500), 300)], delta)
    plain = accounting.epsilon([(CAPPED.uncapped(), 300)], delta)
    assert plain.lower <= capped.upper <= plain.upper * 1.01
    assert capped.lower == pytest.approx(plain.lower, rel=1e-4)


@functools.cache
def members(n, q, cap):
    """Probability of (user 0 is in, how many others are), by enumeration of all coins."""
    table = np.zeros((2, n))
    for coins in itertools.product((0, 1), repeat=n):
        heads = np.flatnonzero(coins)
        weight = q ** len(heads) * (1 - q) ** (n - len(heads))
        subsets = list(itertools.combinations(heads, min(cap, len(heads))))
        for kept in subsets:
            table[int(0 in kept), len(kept) - (0 in kept)] += weight / len(subsets)
    return table


@pytest.mark.parametrize("cap", [1, 2, 4, 6])
def test_the_rate_of_taking_part_is_that_of_an_enumeration(cap):
    event = dataclasses.replace(CAPPED, sampling_rate=0.4, population=6, cohort_cap=cap)
    assert truncated_poisson.inclusion_rate(event) == pytest.approx(
        members(6, 0.4, cap)[1].sum(), rel=1e-8
    )
    assert truncated_poisson.inclusion_rate(event) <= members(6, 0.4, cap)[1].sum()


OUTPUTS = np.linspace(-20, 20, 50_001)


@functools.cache
def densities(n, q, cap, z, others):
    """(2, points) of one round's output without and with a user who sends 1."""
    return [
        sum(
            weight * stats.norm.pdf(OUTPUTS, others * count + inside * filled, z)
            for inside, row in enumerate(members(n, q, cap))
            for count, weight in enumerate(row)
        )
        for filled in (0, 1)
    ]


def true_delta(epsilon, *neighbours):
    """Hockey-stick divergence, larger direction, by quadrature."""
    one, other = densities(*neighbours)
    factor = math.exp(epsilon)
    return max(
        np.trapezoid(np.maximum(p - factor * q, 0), OUTPUTS)
        for p, q in ((one, other), (other, one))
    )


@pytest.mark.parametrize("cap", [1, 2, 3, 5])
@pytest.mark.parametrize("z", [0.8, 2.0])
def test_the_ends_hold_for_neighbours_that_can_be_written_down(cap, z):
    event = accounting.RoundEvent(
        sampling_rate=0.3, noise_multiplier=z, population=6, cohort_cap=cap
    )
    for delta in (1e-2, 1e-4):
        figure = accounting.epsilon([(event, 1)], delta)
        for others in (-1.0, 0.0, 0.5, 1.0):
            assert true_delta(figure.upper, 6, 0.3, cap, z, others) <= delta
        if figure.lower > 0:
            silent = true_delta(figure.lower, 6, 0.3, cap, z, 0.0)
            assert silent == pytest.approx(delta, rel=0.05)
            assert silent >= delta * (1 - 1e-6)


def test_a_tighter_cap_costs_more_and_rounds_of_both_kinds_compose():
    uppers = [
        accounting.epsilon([(dataclasses.replace(CAPPED, cohort_cap=cap), 50)], 1e-6).upper
        for cap in (110, 125, 140, 200)
    ]
    assert uppers == sorted(uppers, reverse=True)
    one = accounting.epsilon([(CAPPED, 100)], 1e-6)
    both = accounting.epsilon([(CAPPED, 100), (CAPPED.uncapped(), 100)], 1e-6)
    assert one.upper < both.upper
    assert one.lower < both.lower


def test_calibration_and_the_curve_end_on_the_private_side():
    event = dataclasses.replace(CAPPED, cohort_cap=130)
    z = accounting.calibrate(event, 50, 2.0, 1e-6)
    noised = dataclasses.replace(event, noise_multiplier=z)
    assert 1.98 < accounting.epsilon([(noised, 50)], 1e-6).upper <= 2.0
    after = accounting.epsilon_curve(noised, 50, 1e-6)
    assert 0 == after(0) < after(10) < after(50) <= 2.0


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_other_accountants_refuse(accountant):
    with pytest.raises(ValueError, match="cohort_cap=150"):
        accounting.epsilon([(CAPPED, 10)], 1e-6, accountant=accountant)


def test_nothing_takes_a_capped_round_for_a_plain_one():
    with pytest.raises(ValueError, match="cohort_cap=150"):
        CAPPED.hits()


def test_an_event_survives_the_ledger_and_half_a_cap_is_refused():
    stored = json.loads(json.dumps(CAPPED.to_dict()))
    assert accounting.RoundEvent.from_dict(stored) == CAPPED
    assert "cohort_cap" not in CAPPED.uncapped().to_dict()
    for wrong in ({"population": None}, {"cohort_cap": 0}, {"population": 9.0}, {"group_size": 2}):
        with pytest.raises(ValueError, match=r"Expected|capped"):
            dataclasses.replace(CAPPED, **wrong)
    stored.pop("population")
    with pytest.raises(ValueError, match="population"):
        accounting.RoundEvent.from_dict(stored)


# --- the boundary --------------------------------------------------------------------------------


def planned(*overrides):
    asked, _ = hydra_compose.settings(["privacy.users=2164", "strategy.cohort_max=230", *overrides])
    return asked, planner.bare(asked)


def test_the_plan_prints_what_the_cap_costs(capsys):
    asked, plan = planned()
    told = planner.described(plan, asked, ["pld"])
    assert told["cohort_cap"] == 230
    assert told["epsilon_without_cap"] < 0.9 * told["epsilon"]["upper"]
    assert told["epsilon"]["upper"] <= 8
    assert cli.main(["plan", "privacy.users=2164", "strategy.cohort_max=260"]) == 0
    assert "without it the same noise gives epsilon <= 7.9" in capsys.readouterr().out


def test_the_header_names_cap_adjacency_and_event():
    asked, plan = planned()
    facts = ledger_header.header(asked, plan, layout="l", base="b")
    assert facts["adjacency"] == "zero-out-one-user"
    assert facts["cohort_cap"] == facts["event"]["cohort_cap"] == 230
    assert facts["event"]["population"] == facts["declared_users"] == 2164


@pytest.mark.parametrize(
    ("overrides", "told"),
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
def test_what_no_cap_can_be(overrides, told):
    with pytest.raises(ConfigurationError, match=told):
        planned(*overrides)


def test_a_bare_rate_knows_no_cap():
    asked, _ = hydra_compose.settings(
        ["plan.sampling_rate=0.1", "privacy.delta=1e-5", "strategy.cohort_max=9"]
    )
    with pytest.raises(ConfigurationError, match=r"strategy\.cohort_max=9"):
        planner.bare(asked)
    assert not hasattr(GroupPrivacy, "cohort_max")


def test_a_statement_with_a_cap_and_the_other_adjacency_is_refused():
    with pytest.raises(ValueError, match="zero-out-one-user"):
        schema._check_words(
            {
                **{"unit": "user", "adjacency": "add-or-remove-one-user", "clipped_unit": "user"},
                **{"seeds_policy": "secret", "private": True, "reasons": []},
                "not_covered": list(schema.NOT_COVERED),
                "sampling": {"scheme": "", "rate": 0.1, "expected_cohort": 2, "cap": 3},
            }
        )


def logged(folder, key):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["round"]: row[key] for row in rows if key in row}


@pytest.mark.slow
def test_a_run_stopped_and_resumed_clips_as_an_uninterrupted_one(tmp_path, monkeypatch):
    """Through the command line, with replayed coins and noise."""
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    options = ["strategy.clip_quantile=0.5", "strategy.clip_bit_noise=5", "rounds=4"]
    options += ["strategy.cohort_max=7", "privacy.reproducible=true"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.main(["run", *small_world.overrides(*options, f"output={whole}")]) == 0
    draw = UserWise.draw

    def interrupted(self, source, number):
        if len(logged(parts, "clip_norm")) == 2:
            raise KeyboardInterrupt
        return draw(self, source, number)

    with monkeypatch.context() as patch:
        patch.setattr(UserWise, "draw", interrupted)
        assert cli.main(["run", *small_world.overrides(*options, f"output={parts}")]) == 130
    assert cli.main(["run", f"resume={parts}"]) == 0
    assert len(set(logged(whole, "clip_norm").values())) == 4
    for key in ("clip_norm", "unclipped_fraction", "release_norm"):
        assert logged(parts, key) == logged(whole, key)


@pytest.mark.slow
def test_a_run_with_cap_and_adaptive_clip_states_both_resumes_and_verifies(tmp_path, monkeypatch):
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    folder = tmp_path / "run"
    options = ["strategy.cohort_max=7", "strategy.clip_quantile=0.5", "strategy.clip_bit_noise=3"]
    overrides = small_world.overrides(*options, f"output={folder}", "privacy.epsilon=8")
    assert cli.main(["run", *overrides]) == 0
    told = json.loads((folder / "privacy_statement.json").read_text())
    assert told["adjacency"] == "zero-out-one-user"
    assert told["sampling"]["cap"] == 7
    assert told["adaptive_clip"]["quantile"] == 0.5
    assert base.ADAPTED in told["released"]
    assert len(set(logged(folder, "clip_norm").values())) == 2
    assert cli.main(["run", f"resume={folder}", "rounds=2"]) == 2  # all spent
    assert cli.main(["verify", str(folder)]) == 0
