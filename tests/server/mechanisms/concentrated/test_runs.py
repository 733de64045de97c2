"""The concentration mechanism through nodes, messages and ledger: rows, replies, halt, resume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers import tiny
from userdp.server import strategy as server_strategy
from userdp.server.accounting import RoundEvent
from userdp.server.ledger import ledger
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.concentrated.statistic import measure
from userdp.server.mechanisms.user_wise import UserWise

STATISTICS = pytest.mark.parametrize("statistic", ["weight", "pairs"])
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
    found = measure(rows, mechanism.radius)
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
    options = {"train": lambda host, message: replies.append(host.train(message)) or replies[-1]}
    one_round(tmp_path / "ours", letter_writers(), **options)
    assert "clipped_rows" in replies[-1].content
    plain = UserWise(
        users=USERS, cohort=4, records_per_user=0, clip_norm=0.05, noise_multiplier=1.0
    )
    run = one_round(tmp_path / "plain", letter_writers(), plain, **options)
    assert "clipped_rows" not in replies[-1].content
    assert run.mechanism.rows == [None]


@pytest.mark.parametrize("keep_rows", [True, False])
def test_a_reply_that_does_not_fit_is_refused(tmp_path, keep_rows):
    def contrary(host, message):
        message.content["contract"]["keep_rows"] = not keep_rows
        return host.train(message)

    mechanism = NEAR
    if not keep_rows:
        mechanism = UserWise(
            users=USERS, cohort=4, records_per_user=0, clip_norm=0.05, noise_multiplier=1.0
        )
    run = tiny.federation(
        tmp_path, mechanism, letter_writers(), train=contrary, cohort=tiny.everyone(USERS)
    )
    with pytest.raises(server_strategy.NodeFailedError, match=f"keep_rows={keep_rows}"):
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
