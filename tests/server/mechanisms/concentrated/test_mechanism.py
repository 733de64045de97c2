"""The concentration mechanism: test, branches, noise and ledger agree with the proof."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from helpers import tiny
from userdp.server import accounting
from userdp.server import strategy as server_strategy
from userdp.server.accounting import RoundEvent
from userdp.server.ledger import ledger
from userdp.server.mechanisms.concentrated import statistic as concentration
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.tracking import metric_kinds

PUBLIC = {"users": 200, "cohort": 100, "records_per_user": 2, "clip_norm": 0.5}
MECHANISM = Concentrated(
    noise_multiplier=0.8,
    tau=0.02,
    min_weight=30,
    test_share=0.3,
    failure_probability=1e-4,
    **PUBLIC,
)
STATISTICS = pytest.mark.parametrize("statistic", ["weight", "pairs"])
WRONG_SCALES = (2 / 3, 3 / 2)


class Silent:
    """A stream whose normals are all zero."""

    def uniform(self, size):
        return np.full(size, 0.5)


def alike(count, size=3):
    """Rows that agree: W and t are their number."""
    return np.full((count, size), 0.1 / math.sqrt(size))


def scattered(count, size=64):
    """Rows of which no two lie within 2 tau: W is 0, t is below."""
    rows = np.zeros((count, size))
    np.fill_diagonal(rows, 0.5)
    return rows


def cohort(rows):
    return CohortSum(rows.sum(0), rows=rows)


def released(mechanism, rows, stream=None):
    return mechanism.release(cohort(rows), stream or rng.OsEntropy(), 1)


def check_scale(noise, std):
    assert stats.kstest(noise, "norm", args=(0, std)).pvalue > 1e-6
    for wrong in WRONG_SCALES:
        assert stats.kstest(noise, "norm", args=(0, wrong * std)).pvalue < 1e-6


# --- noise ----------------------------------------------------------------------------------------


def test_noise_on_the_mean_of_a_passed_test_is_scaled_to_tau_and_no_other():
    rows = alike(90, size=20_000)
    found = released(MECHANISM, rows)
    std = 0.8 / math.sqrt(0.7) * (52 / 3) * 0.02 / 30
    assert found.released["test_passed"] == 1
    assert found.noise_std == pytest.approx(std, rel=1e-12)
    check_scale(found.mean - rows[0], std)


def test_noise_of_a_failed_test_is_user_wise_at_the_updates_share():
    rows = scattered(40, size=20_000)
    found = released(MECHANISM, rows)
    std = 0.8 / math.sqrt(0.7) * 0.5 / 100
    assert found.released["test_passed"] == 0
    assert found.noise_std == pytest.approx(std, rel=1e-12)
    check_scale(found.mean - rows.sum(0) / 100, std)


@STATISTICS
@pytest.mark.parametrize("rows", [alike(90), scattered(40), alike(0)], ids=["pass", "fail", "none"])
def test_noise_on_the_statistic_is_scaled_to_its_sensitivity_and_no_other(statistic, rows):
    mechanism = dataclasses.replace(MECHANISM, test_statistic=statistic)
    true = concentration.measure(rows, 0.02).statistic(statistic)
    seen = [released(mechanism, rows).released["test_statistic"] for _ in range(3000)]
    sensitivity = {"weight": 4.0, "pairs": 3.0}[statistic]
    check_scale(np.array(seen) - true, 0.8 / math.sqrt(0.3) * sensitivity)


def test_noise_of_test_and_update_is_drawn_apart():
    found = [released(MECHANISM, alike(90)) for _ in range(3000)]
    statistics = np.array([f.released["test_statistic"] for f in found])
    means = np.array([f.mean for f in found])
    for column in means.T:
        assert abs(np.corrcoef(statistics, column)[0, 1]) < 5 / math.sqrt(3000)


@STATISTICS
def test_a_weight_just_short_of_the_least_passes_with_the_failure_probability_and_no_other(
    statistic,
):
    """The worst case of step 6: the statistic equals min_weight."""
    mechanism = dataclasses.replace(
        MECHANISM, test_statistic=statistic, failure_probability=0.05, min_weight=30
    )
    passed = sum(released(mechanism, alike(30)).released["test_passed"] for _ in range(6000))
    assert stats.binomtest(int(passed), 6000, 0.05).pvalue > 1e-6
    for wrong in WRONG_SCALES:  # of the test's noise
        rate = stats.norm.sf(stats.norm.isf(0.05) / wrong)
        assert stats.binomtest(int(passed), 6000, rate).pvalue < 1e-6


# --- branches -------------------------------------------------------------------------------------


def test_the_test_passes_from_its_threshold_on():
    reached = math.ceil(MECHANISM.threshold)
    assert MECHANISM.threshold == pytest.approx(
        30 + 4 * (0.8 / math.sqrt(0.3)) * stats.norm.isf(1e-4), rel=1e-9
    )
    assert released(MECHANISM, alike(reached), Silent()).released["test_passed"] == 1
    assert released(MECHANISM, alike(reached - 1), Silent()).released["test_passed"] == 0


def test_without_a_failure_probability_no_test_ever_passes():
    never = dataclasses.replace(MECHANISM, failure_probability=0.0)
    assert never.threshold == math.inf
    assert released(never, alike(100)).released["test_passed"] == 0


def test_a_tiny_failure_probability_is_not_taken_for_more_than_the_noise_resolves():
    """Generated normals stop short of 8.3: the tail beyond is not that of a Gaussian."""
    tiny_failure = dataclasses.replace(MECHANISM, failure_probability=2.0**-52)
    assert tiny_failure.threshold == math.inf
    some = dataclasses.replace(MECHANISM, failure_probability=1e-14)
    assert stats.norm.sf(some.quantile) < 1e-14 - 2.0**-53


@pytest.mark.parametrize("rows", [alike(90), scattered(40), alike(0)], ids=["pass", "fail", "none"])
def test_with_a_weight_that_nobody_reaches_it_is_user_wise_at_the_updates_multiplier(rows):
    mechanism = dataclasses.replace(MECHANISM, min_weight=1e9)
    plain = UserWise(noise_multiplier=mechanism.update_multiplier, **PUBLIC)
    ours, theirs = (rng.Secrets(replay_seed=1).stream("noise", 1) for _ in range(2))
    rng.standard_normal(theirs, 1)  # of the test
    found = mechanism.release(cohort(rows), ours, 1)
    wanted = plain.release(CohortSum(rows.sum(0)), theirs, 1)
    np.testing.assert_array_equal(found.mean, wanted.mean)
    assert found.noise_std == wanted.noise_std
    assert mechanism.noise_std == plain.noise_std


def test_the_mean_of_a_passed_test_leaves_outliers_out():
    rows = np.concatenate([alike(80), -4 * alike(10)])
    found = released(MECHANISM, rows, Silent())
    np.testing.assert_allclose(found.mean, rows[0], rtol=1e-12)
    assert found.simulation_only["kept_fraction"] == pytest.approx(80 / 90)
    assert found.simulation_only["concentrated_weight"] == 80


def test_a_test_that_passes_by_noise_alone_releases_noise_around_zero():
    """No row has weight, so that there is no mean: the failure that delta pays for."""
    lucky = dataclasses.replace(MECHANISM, failure_probability=0.999_999_99, min_weight=4)
    found = released(lucky, alike(0), Silent())
    assert found.released["test_passed"] == 1
    assert found.mean.tolist() == [0.0, 0.0, 0.0]


def test_a_failed_test_that_halts_releases_nothing_more():
    found = released(dataclasses.replace(MECHANISM, on_failure="halt"), scattered(40))
    assert found.halted
    assert found.mean.tolist() == [0.0] * 64
    assert not released(dataclasses.replace(MECHANISM, on_failure="halt"), alike(90)).halted


def test_without_rows_it_refuses():
    with pytest.raises(ValueError, match="rows"):
        MECHANISM.release(CohortSum(np.zeros(3)), rng.OsEntropy(), 1)


# --- account --------------------------------------------------------------------------------------


@STATISTICS
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.99])
def test_queries_combine_to_z_and_say_what_is_drawn(statistic, share):
    mechanism = dataclasses.replace(
        MECHANISM, test_statistic=statistic, test_share=share, failure_probability=0.3
    )
    test, update = mechanism.queries()
    assert test.precision + update.precision == pytest.approx(0.8**-2, rel=1e-12)
    assert test.sensitivity == {"weight": 4, "pairs": 3}[statistic]
    passed = released(mechanism, alike(200), Silent()).noise_std / mechanism.mean_sensitivity
    failed = released(mechanism, scattered(5), Silent()).noise_std / (0.5 / 100)
    assert passed == pytest.approx(update.noise_std / update.sensitivity, rel=1e-12)
    assert failed == pytest.approx(update.noise_std / update.sensitivity, rel=1e-12)


def test_the_event_is_that_of_a_gaussian_that_may_fail():
    assert MECHANISM.event() == RoundEvent(
        sampling_rate=0.5, noise_multiplier=0.8, failure_probability=1e-4
    )


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_all_failures_together_take_a_hundredth_of_delta(epsilon):
    made = MECHANISM.for_run(rounds=20, delta=1e-5, epsilon=epsilon)
    assert 20 * made.failure_probability * (1 + math.exp(epsilon)) == pytest.approx(1e-7)


def test_without_a_target_epsilon_is_what_the_noise_implies():
    made = MECHANISM.for_run(rounds=20, delta=1e-5, epsilon=None)
    spent = accounting.epsilon([(made.event(), 20)], 1e-5).upper
    plain = accounting.epsilon([(made.event().unfailing(), 20)], 0.99e-5).upper
    assert spent == pytest.approx(plain, rel=1e-4)
    assert 20 * made.failure_probability * (1 + math.exp(plain)) == pytest.approx(1e-7)


def test_noise_that_implies_no_epsilon_leaves_no_room_for_a_test():
    loud = dataclasses.replace(MECHANISM, noise_multiplier=1e-3)
    made = loud.for_run(rounds=20, delta=1e-5, epsilon=None)
    with pytest.raises(ConfigurationError, match="finer than noise"):
        made.remarks()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        *(({"tau": value}, "strategy.tau=") for value in (0.0, -1.0, 1e-6, math.inf, math.nan)),
        *(({"min_weight": v}, "strategy.min_weight=") for v in (0.0, 3.9, -1, math.inf, math.nan)),
        ({"min_weight": None, "cohort": 7.9}, "strategy.min_weight=3.95"),
        *(({"test_share": v}, "strategy.test_share=") for v in (0.0, 1.0, -0.1, math.nan)),
        ({"test_statistic": "mean"}, "strategy.test_statistic=mean: choose one of weight, pairs"),
        ({"on_failure": "stop"}, "strategy.on_failure=stop: choose one of fallback, halt"),
        ({"cohort_max": 120}, "strategy.cohort_max=120"),
    ],
    ids=str,
)
def test_what_is_no_mechanism_is_refused_in_one_line(wrong, told):
    with pytest.raises(ConfigurationError, match=told) as refused:
        dataclasses.replace(MECHANISM, **wrong)
    assert "\n" not in str(refused.value)


def test_a_cohort_that_cannot_pass_is_refused_with_the_mend():
    with pytest.raises(ConfigurationError, match=r"min_weight=95.*cohort=100.*test_share"):
        dataclasses.replace(MECHANISM, min_weight=95).remarks()


def test_a_radius_that_does_not_pay_is_remarked_and_one_that_does_is_not():
    [remark] = MECHANISM.remarks()
    assert "strategy.tau=0.02: a passed test adds 2.31 times" in remark
    pays = float(remark.partition("below tau=")[2].partition(" ")[0])
    assert dataclasses.replace(MECHANISM, tau=pays * 0.999).remarks() == []
    assert dataclasses.replace(MECHANISM, tau=pays * 1.01).remarks()


def test_defaults_are_a_fiftieth_of_c_and_half_of_the_cohort():
    usual = Concentrated(noise_multiplier=1.0, **PUBLIC)
    assert (usual.radius, usual.least_weight) == (0.01, 50)
    assert usual.mean_sensitivity < 0.5 / 100


# --- through nodes, grid and ledger ---------------------------------------------------------------

USERS = 8
NEAR = Concentrated(
    users=USERS,
    cohort=USERS / 2,
    records_per_user=0,
    clip_norm=0.05,
    noise_multiplier=0.5,
    tau=0.02,
    min_weight=4,
    test_share=0.5,
    failure_probability=0.2,
)
ROUNDING = 1e-5  # of a unit's float32 update, by the shape of its stack


def letter_writers():
    """Users with the same two texts; some changed a word, one wrote something else."""
    texts = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [20, 21, 22, 23, 24, 25]]
    people = {f"u{i}": [list(text) for text in texts] for i in range(USERS)}
    people["u1"][0][3] = 44
    people["u2"][1][2] = 45
    people["u5"] = [[50, 3, 50, 3, 50]]
    return tiny.Population.of(people)


def one_round(folder, population, mechanism=NEAR, **options):
    folder.mkdir()
    options = {"cohort": tiny.everyone(USERS), **options}
    run = tiny.federation(folder, mechanism, population, **options)
    run.run()
    return run


def in_order(rows):
    return rows[np.lexsort(np.round(rows.T, 7))]


def without_row(rows, fewer):
    """Whether ``fewer`` are ``rows`` but for one, up to rounding."""
    near = [np.abs(rows - row).max(1).min() < ROUNDING * NEAR.clip_norm for row in fewer]
    return len(fewer) == len(rows) - 1 and all(near)


def test_a_removed_user_takes_one_row_away_and_leaves_the_others(tmp_path):
    whole = one_round(tmp_path / "whole", letter_writers()).mechanism.rows[0]
    assert whole.shape == (USERS, tiny.language_model().layout.size)
    assert whole.dtype == np.float64
    for user in range(USERS):
        fewer = one_round(tmp_path / str(user), letter_writers().emptied(user))
        assert without_row(whole, fewer.mechanism.rows[0])


@STATISTICS
@pytest.mark.parametrize("tau", [0.002, 0.02, 0.06])
def test_a_user_moves_the_joint_query_by_at_most_one_over_z(tmp_path, statistic, tau):
    """Test, and whichever update the test decides for, each over its noise."""
    mechanism = dataclasses.replace(NEAR, tau=tau, test_statistic=statistic)
    whole = joint(one_round(tmp_path / "whole", letter_writers(), mechanism))
    for user in range(USERS):
        run = one_round(tmp_path / str(user), letter_writers().emptied(user), mechanism)
        test, mean, total, weight = (a - b for a, b in zip(joint(run), whole, strict=True))
        assert abs(test) < 1 / mechanism.test_multiplier
        assert np.linalg.norm(total) <= (1 + ROUNDING) / mechanism.update_multiplier
        if max(whole[3], whole[3] + weight) >= mechanism.least_weight:
            assert np.linalg.norm(mean) < (1 + ROUNDING) / mechanism.update_multiplier


def joint(run):
    """Statistic, mean and sum of a round before noise, each over its noise; and its W."""
    rows, mechanism = run.mechanism.rows[0], run.mechanism
    found = concentration.measure(rows, mechanism.radius)
    statistic = found.statistic(mechanism.test_statistic)
    std = mechanism.update_multiplier * mechanism.mean_sensitivity
    return (
        statistic / (mechanism.test_sensitivity * mechanism.test_multiplier),
        found.mean(rows) / std,
        run.total / mechanism.noise_std,
        found.statistic("weight"),
    )


@pytest.mark.parametrize("nodes", [1, 3, USERS, 50])
def test_rows_are_those_that_were_summed_on_however_many_nodes(tmp_path, nodes):
    run = one_round(tmp_path / "run", letter_writers(), nodes=nodes)
    rows = run.mechanism.rows[0]
    np.testing.assert_allclose(rows.sum(0), run.total, atol=1e-15)
    assert (np.linalg.norm(rows, axis=1) <= NEAR.clip_norm).all()
    alone = one_round(tmp_path / "alone", letter_writers()).mechanism.rows[0]
    np.testing.assert_allclose(in_order(rows), in_order(alone), atol=ROUNDING * NEAR.clip_norm)


def test_a_failed_user_an_empty_place_and_one_without_records_have_no_row(tmp_path):
    people = {f"u{i}": [[1, 2, 3, 4]] for i in range(USERS - 1)}
    people["u2"] = [[tiny.VOCABULARY, 1, 2]]
    population = tiny.Population.of(people).emptied(4)
    run = one_round(tmp_path / "run", population)  # nobody takes the last place
    assert len(run.mechanism.rows[0]) == USERS - 3


def test_an_empty_cohort_is_a_round_of_noise(tmp_path):
    run = one_round(tmp_path / "run", letter_writers(), cohort=tiny.everyone(0))
    [release] = run.mechanism.releases
    assert run.mechanism.rows[0].shape == (0, len(run.total))
    assert release.simulation_only["true_test_statistic"] == 0
    assert np.linalg.norm(release.mean) > 0


def test_only_this_mechanism_asks_for_rows(tmp_path):
    replies = []
    options = {"train": lambda host, asked: replies.append(host.train(asked)) or replies[-1]}
    one_round(tmp_path / "ours", letter_writers(), **options)
    assert "clipped_rows" in replies[-1].content
    plain = UserWise(
        users=USERS, cohort=4, records_per_user=0, clip_norm=0.05, noise_multiplier=1.0
    )
    run = one_round(tmp_path / "plain", letter_writers(), plain, **options)
    assert "clipped_rows" not in replies[-1].content
    assert run.mechanism.rows == [None]


@pytest.mark.parametrize("asked", [True, False])
def test_a_reply_that_does_not_fit_is_refused(tmp_path, asked):
    def contrary(host, message):
        message.content["contract"]["keep_rows"] = not asked
        return host.train(message)

    mechanism = NEAR
    if not asked:
        mechanism = UserWise(
            users=USERS, cohort=4, records_per_user=0, clip_norm=0.05, noise_multiplier=1.0
        )
    run = tiny.federation(
        tmp_path, mechanism, letter_writers(), train=contrary, cohort=tiny.everyone(USERS)
    )
    with pytest.raises(ValueError, match="rows"):
        run.run()


def test_the_ledger_has_both_queries_and_epsilon_counts_the_failures(tmp_path):
    run = tiny.federation(tmp_path, NEAR, letter_writers())
    run.run(3)
    account = ledger.verify(run.path)
    [(event, count)] = account.spent
    assert count == 3
    assert RoundEvent.from_dict(event) == NEAR.event()
    intents = [entry for entry in run.entries() if entry["kind"] == "intent"]
    assert all(
        [query["name"] for query in intent["queries"]]
        == ["test", "update_in_units_of_its_sensitivity"]
        for intent in intents
    )


def test_a_run_halts_at_the_first_failed_test_and_stays_so_when_resumed(tmp_path):
    mechanism = dataclasses.replace(NEAR, on_failure="halt", tau=1e-5, failure_probability=1e-9)
    first = tiny.federation(tmp_path, mechanism, letter_writers())
    first.strategy.optimizer.step = None  # not even along zero: momentum would move the adapter
    with pytest.raises(server_strategy.HaltedError, match="round 1"):
        first.run(5)
    assert [entry["kind"] for entry in first.entries()] == ["header", "intent", "done"]
    initial = first.host.model.initial.numpy()
    np.testing.assert_array_equal(first.strategy.optimizer.adapter, initial)
    again = tiny.federation(tmp_path, mechanism, letter_writers(), resume=True)
    with pytest.raises(server_strategy.HaltedError, match="round 1"):
        again.run(4)
    assert again.ledger.rounds_intended == 1
    assert again.mechanism.summary() == {"test_pass_rate": 0}


def test_a_run_that_passes_does_not_halt(tmp_path):
    mechanism = dataclasses.replace(NEAR, on_failure="halt", tau=1.0, failure_probability=1 - 1e-9)
    run = tiny.federation(
        tmp_path, mechanism, letter_writers(), cohort=tiny.everyone(USERS), nodes=3
    )
    run.run(3)
    assert run.ledger.rounds_intended == 3
    assert run.mechanism.summary() == {"test_pass_rate": 1}


def test_the_pass_rate_survives_a_resume(tmp_path):
    options = {"cohort": tiny.everyone(USERS)}
    passing = dataclasses.replace(NEAR, tau=1.0, failure_probability=1 - 1e-9)
    tiny.federation(tmp_path, passing, letter_writers(), **options).run(2)
    failing = dataclasses.replace(passing, failure_probability=1e-300)
    again = tiny.federation(tmp_path, failing, letter_writers(), resume=True, **options)
    again.run(2)
    assert again.mechanism.summary() == {"test_pass_rate": 0.5}


def test_every_figure_has_its_kind():
    found = released(MECHANISM, alike(90))
    kinds = {metric_kinds.kind(name) for name in [*found.released, *MECHANISM.summary()]}
    assert kinds == {metric_kinds.Kind.RELEASED}
    assert {metric_kinds.kind(n) for n in found.simulation_only} == {
        metric_kinds.Kind.SIMULATION_ONLY
    }


def test_without_noise_the_test_has_no_margin():
    """What is logged as simulation_only: does W reach min_weight?"""
    for count, wanted in ((29, 0), (30, 1), (90, 1)):
        true = released(MECHANISM, alike(count)).simulation_only
        assert (true["true_test_statistic"], true["true_test_passed"]) == (count, wanted)
