"""A round of the strategy: intent before messages, each node added once, noise added once."""

from __future__ import annotations

import copy
import functools
import json
import logging

import numpy as np
import peft
import pytest
import torch
from flwr.app import Error, Message
from scipy import stats

from helpers import tiny
from userdp.server.ledger.ledger import verify
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.strategy import BudgetSpentError, NodeFailedError
from userdp.sim.common import rng
from userdp.sim.data.population import Population
from userdp.sim.protocol.cohort_sum import CohortSum

PUBLIC = {"users": 6, "cohort": 3, "records_per_user": 2, "clip_norm": 0.05}
USER = UserWise(noise_multiplier=1.2, **PUBLIC)
SLOT = GroupPrivacy(noise_multiplier=1.2, **PUBLIC)
MECHANISMS = pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
MARKER = "my locker code is 4711"


def kinds(entries):
    return [(entry["kind"], entry.get("round")) for entry in entries]


def release_noise(run):
    """(rounds, D) what was added to the sums."""
    m = run.mechanism.expected_units
    return [m * a - b for a, b in zip(run.mechanism.means, run.mechanism.sums, strict=True)]


class Failing:
    """A node's work that raises on its first ``times`` calls, with a record's text in the error."""

    def __init__(self, times):
        self.left = times

    def __call__(self, host, message):
        if self.left:
            self.left -= 1
            raise ValueError(MARKER)
        return host.train(message)


@MECHANISMS
def test_the_intent_is_on_disk_before_a_message_is_delivered(tmp_path, mechanism):
    seen = []

    def before(message):
        lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
        seen.append((int(message.metadata.group_id), kinds([json.loads(lines[-1])])[0]))

    tiny.federation(tmp_path, mechanism, tiny.people(6), nodes=3, before=before).run(3)
    assert {number for number, _ in seen} == {1, 2, 3}
    assert all(last == ("intent", number) for number, last in seen)


@MECHANISMS
def test_each_round_is_one_intent_one_release_one_done_at_the_declared_noise(tmp_path, mechanism):
    run = tiny.federation(tmp_path, mechanism, tiny.people(6))
    run.run(4)
    pairs = [(kind, number) for number in range(1, 5) for kind in ("intent", "done")]
    assert kinds(run.entries())[1:] == pairs
    assert len(run.mechanism.means) == 4
    intents = [entry for entry in run.entries() if entry["kind"] == "intent"]
    assert all(entry["event"] == mechanism.ledger_event() for entry in intents)
    for [query] in (entry["queries"] for entry in intents):
        assert query["noise_std"] / query["sensitivity"] == pytest.approx(1.2)
    measured = np.concatenate(release_noise(run))
    std = intents[0]["queries"][0]["noise_std"]
    assert stats.kstest(measured, "norm", args=(0, std)).pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(measured, "norm", args=(0, wrong * std)).pvalue < 1e-6


@pytest.mark.parametrize("nodes", [1, 6])
def test_an_empty_cohort_releases_pure_noise_of_the_same_scale(tmp_path, nodes):
    run = tiny.federation(tmp_path, USER, tiny.people(6), nodes=nodes, cohort=tiny.everyone(0))
    adapter = run.run(3)
    assert run.grid.sent == []
    assert kinds(run.entries())[-1] == ("done", 3)
    moved = adapter - run.host.model.initial.numpy()
    std = 1.2 * 0.05 / 3 * np.sqrt(3)
    assert stats.kstest(moved, "norm", args=(0, std)).pvalue > 1e-3
    assert all(np.abs(total).max() == 0 for total in run.mechanism.sums)


def test_the_declared_user_of_nobody_changes_no_rate_and_no_denominator(tmp_path):
    """N and m come from the declaration: two of six declared users exist."""
    run = tiny.federation(tmp_path, USER, tiny.people(2), cohort=tiny.everyone(6))
    run.run()
    assert np.linalg.norm(run.total) <= 2 * 0.05
    nobody = CohortSum(np.zeros(run.host.model.layout.size))
    noise = USER.release(nobody, rng.Secrets(replay_seed=0).stream("noise", 1), 1).mean
    np.testing.assert_allclose(run.mechanism.means[0], run.total / 3 + noise, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nodes", [1, 6])
def test_noise_is_drawn_once_whatever_the_number_of_nodes(tmp_path, nodes):
    run = tiny.federation(
        tmp_path, USER, tiny.people(6), nodes=nodes, cohort=tiny.everyone(6), replay_seed=None
    )
    run.run(4)
    noise = np.concatenate(release_noise(run))
    assert stats.kstest(noise, "norm", args=(0, 1.2 * 0.05)).pvalue > 1e-6
    assert stats.kstest(noise, "norm", args=(0, 1.2 * 0.05 * 3 / 2)).pvalue < 1e-6
    assert stats.kstest(noise, "norm", args=(0, 1.2 * 0.05 * 2 / 3)).pvalue < 1e-6


def test_with_a_budget_of_three_rounds_there_are_three_releases_and_no_call_for_a_fourth(tmp_path):
    run = tiny.federation(tmp_path, USER, tiny.people(6), budget=3, cohort=tiny.everyone(6))
    with pytest.raises(BudgetSpentError, match="3 rounds"):
        run.run(5)
    assert len(run.mechanism.means) == 3
    assert [m.metadata.group_id for m in run.grid.sent] == ["1", "2", "3"]
    assert kinds(run.entries())[-1] == ("done", 3)


def test_a_resumed_run_may_not_spend_what_earlier_intents_have_spent(tmp_path):
    tiny.federation(tmp_path, USER, tiny.people(6), budget=3).run(2)
    again = tiny.federation(tmp_path, USER, tiny.people(6), budget=3, resume=True)
    with pytest.raises(BudgetSpentError):
        again.run(5)
    assert len(again.mechanism.means) == 1


def test_a_failed_node_is_asked_once_more_and_the_round_equals_one_without_failure(tmp_path):
    adapters = []
    for name, train in [("whole", Failing(0)), ("failed", Failing(1))]:
        (tmp_path / name).mkdir()
        run = tiny.federation(
            tmp_path / name,
            USER,
            tiny.people(6),
            nodes=3,
            cohort=tiny.everyone(6),
            train=train,
        )
        adapters.append(run.run())
    assert len(run.grid.sent) == 4
    first, again = run.grid.sent[0], run.grid.sent[3]
    assert again.content == first.content  # the same request, the same intent
    assert again.metadata.group_id == first.metadata.group_id
    assert again.metadata.dst_node_id == first.metadata.dst_node_id
    assert kinds(run.entries())[1:] == [("intent", 1), ("done", 1)]
    np.testing.assert_allclose(*adapters, rtol=0, atol=1e-6)


def test_a_message_that_is_sent_once_more_is_a_new_one_with_the_same_contents(tmp_path):
    """Flower's grids mark a message that was delivered, and refuse to take it again."""
    everyone = tiny.everyone(6)
    run = tiny.federation(tmp_path, USER, tiny.people(6), cohort=everyone, train=Failing(1))
    run.run(1)
    first, second = run.grid.sent
    assert first is not second
    assert first.metadata.message_id != second.metadata.message_id
    for name in ("dst_node_id", "message_type", "group_id"):
        assert getattr(first.metadata, name) == getattr(second.metadata, name)
    assert first.content == second.content


def test_a_node_that_fails_twice_stops_the_run_before_the_release(tmp_path, caplog, capfd):
    run = tiny.federation(
        tmp_path, USER, tiny.people(6), nodes=2, cohort=tiny.everyone(6), train=Failing(9)
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(NodeFailedError) as stop:
        run.run(2)
    assert kinds(run.entries())[1:] == [("intent", 1)]
    assert run.mechanism.means == []
    assert verify(run.path).rounds == 1  # spent, although nothing was released
    output = "".join([str(stop.value), caplog.text, *capfd.readouterr(), run.path.read_text()])
    assert "locker" not in output


def test_a_node_may_be_dropped_only_where_the_run_says_so(tmp_path):
    def second_node_fails(host, message):
        if message.metadata.dst_node_id == 3:
            raise ValueError(MARKER)
        return host.train(message)

    run = tiny.federation(
        tmp_path,
        USER,
        tiny.people(6),
        nodes=2,
        cohort=tiny.everyone(6),
        train=second_node_fails,
        drop_failed_nodes=True,
    )
    run.run()
    (tmp_path / "half").mkdir()
    half = tiny.people(6)
    for user in (1, 3, 5):
        half = half.emptied(user)
    wanted = tiny.federation(tmp_path / "half", USER, half, cohort=tiny.everyone(6))
    wanted.run()
    np.testing.assert_allclose(run.total, wanted.total, atol=1e-6)
    assert kinds(run.entries())[-1] == ("done", 1)


def replies_of(run):
    """The messages of round 1 and their true replies."""
    strategy, grid = run.strategy, run.grid
    sent = strategy.configure_train(
        1, strategy.layout.to_arrays(run.host.model.initial.numpy()), None, grid
    )
    return list(grid.send_and_receive(sent))


def test_a_second_reply_of_a_node_is_refused(tmp_path):
    run = tiny.federation(tmp_path, USER, tiny.people(6), nodes=2, cohort=tiny.everyone(6))
    first, second = replies_of(run)
    with pytest.raises(NodeFailedError, match="second reply"):
        run.strategy.aggregate_train(1, [first, second, first])
    assert run.mechanism.means == []


def test_a_reply_to_an_earlier_round_is_refused(tmp_path):
    run = tiny.federation(tmp_path, USER, tiny.people(6), nodes=2, cohort=tiny.everyone(6))
    old = replies_of(run)
    replies_of(run)
    with pytest.raises(NodeFailedError, match="old one"):
        run.strategy.aggregate_train(2, old)
    assert run.mechanism.means == []


def test_a_reply_of_a_node_that_was_not_asked_is_refused(tmp_path):
    run = tiny.federation(tmp_path, USER, tiny.people(6), nodes=6, cohort=tiny.everyone(3))
    replies = replies_of(run)
    run.strategy._sent.pop(replies[2].metadata.src_node_id)
    with pytest.raises(NodeFailedError, match="was not asked"):
        run.strategy.aggregate_train(1, replies)


def test_replies_in_any_order_and_silent_nodes_give_the_same_sum(tmp_path):
    totals = []
    for name, change in [("a", lambda r: r), ("b", lambda r: r[::-1]), ("c", lambda r: r[1:])]:
        (tmp_path / name).mkdir()
        run = tiny.federation(
            tmp_path / name, USER, tiny.people(6), nodes=3, cohort=tiny.everyone(6)
        )
        run.strategy.aggregate_train(1, change(replies_of(run)))
        totals.append(run.total)
    np.testing.assert_allclose(totals[1:], [totals[0]] * 2, rtol=1e-12, atol=1e-15)


def test_an_error_reply_counts_as_no_answer(tmp_path):
    run = tiny.federation(tmp_path, USER, tiny.people(6), nodes=2, cohort=tiny.everyone(6))
    first, second = replies_of(run)
    error = Message(Error(3, "ValueError"), reply_to=run.grid.sent[0])
    run.strategy.aggregate_train(1, [error, second])
    assert len(run.grid.sent) == 3
    assert len(run.mechanism.means) == 1
    assert first.metadata.src_node_id == run.grid.sent[2].metadata.dst_node_id


@MECHANISMS
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_replayed_run_stopped_and_resumed_equals_an_uninterrupted_one(tmp_path, mechanism, stop):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    options = {"optimizer": ADAM, "nodes": 2}
    whole = tiny.federation(tmp_path / "whole", mechanism, tiny.people(6), **options).run(5)
    tiny.federation(tmp_path / "parts", mechanism, tiny.people(6), **options).run(stop)
    rest = tiny.federation(tmp_path / "parts", mechanism, tiny.people(6), resume=True, **options)
    np.testing.assert_array_equal(rest.run(5 - stop), whole)


def test_noise_never_repeats_across_rounds_and_resumed_runs(tmp_path):
    noises = []
    for resume in (False, True, True):
        torch.manual_seed(0)
        np.random.seed(0)
        run = tiny.federation(tmp_path, USER, tiny.people(6), replay_seed=None, resume=resume)
        run.run(2)
        noises += release_noise(run)
    size = len(noises[0])
    correlations = np.corrcoef(noises)[~np.eye(6, dtype=bool)]
    assert np.abs(correlations).max() < 6 / np.sqrt(size)


def test_two_strict_runs_of_one_configuration_differ_in_coins_and_noise(tmp_path):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs.append(
            tiny.federation(tmp_path / name, USER, tiny.people(6), nodes=6, replay_seed=None)
        )
        runs[-1].run(8)
    cohorts = [[(m.metadata.dst_node_id, m.metadata.group_id) for m in r.grid.sent] for r in runs]
    assert cohorts[0] != cohorts[1]
    assert not np.isin(runs[0].mechanism.means, runs[1].mechanism.means).any()


class Crash(Exception):
    """Stands for a crash of the process."""


@pytest.mark.parametrize("where", ["release", "store", "done"])
def test_a_crash_anywhere_leaves_an_account_of_at_least_what_was_released(
    tmp_path, monkeypatch, where
):
    run = tiny.federation(tmp_path, USER, tiny.people(6), budget=5)

    def crash(*_):
        raise Crash

    def arm(message):
        if message.metadata.group_id == "3":
            owner = {"release": run.mechanism, "store": run.strategy, "done": run.ledger}[where]
            monkeypatch.setattr(owner, {"store": "_store"}.get(where, where), crash)

    run.grid._before = arm
    with pytest.raises(Crash):
        run.run(5)
    monkeypatch.undo()
    assert verify(run.path).rounds == 3
    again = tiny.federation(tmp_path, USER, tiny.people(6), budget=5, resume=True)
    with pytest.raises(BudgetSpentError):
        again.run(5)
    assert len(again.mechanism.means) == 2  # five intents in all
    assert verify(run.path).unfinished == (3,)
    noises = release_noise(run) + release_noise(again)
    assert len({noise.tobytes() for noise in noises}) == len(noises)


def test_one_unit_without_clip_or_noise_is_one_step_of_plain_sgd_on_the_mean_loss(tmp_path):
    """One user, q = 1, all records: ordinary peft training on the mean over records."""
    records = [[5, 6, 7, 8], [9, 3, 3], [1, 2, 3, 4, 5, 6]]
    base = tiny.base_model("gpt2")
    mechanism = NonPrivate(users=1, cohort=1, records_per_user=0)
    run = tiny.federation(tmp_path, mechanism, Population.of({"ada": records}))
    got = run.run()
    adapted = peft.get_peft_model(copy.deepcopy(base), run.host.model.peft_config)
    layout, initial = run.host.model.layout, run.host.model.initial.numpy()
    state = {n: torch.from_numpy(t.copy()) for n, t in layout.named(initial).items()}
    peft.set_peft_model_state_dict(adapted, state)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    rows = [torch.tensor([record]) for record in records]
    (sum(adapted(input_ids=row, labels=row).loss for row in rows) / len(rows)).backward()
    optimizer.step()
    after = peft.get_peft_model_state_dict(adapted)
    wanted = torch.cat([after[name].flatten() for name, _ in layout.shapes]).numpy()
    moved = np.linalg.norm(wanted - initial)
    assert np.linalg.norm(got - wanted) < 1e-5 * moved


def test_private_users_are_never_sent_an_evaluation(tmp_path):
    run = tiny.federation(tmp_path, USER, tiny.people(6))
    run.run(2)
    assert {message.metadata.message_type for message in run.grid.sent} == {"train"}
