"""Held-out scores by groups: users cut into thirds by a trait, their losses added up again."""

from __future__ import annotations

import csv
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from helpers import small_world, tiny
from userdp.clients.evaluation.heldout import Evaluation, RecordScores, evaluate
from userdp.sim import cli
from userdp.sim.data.population import Population
from userdp.sim.run.simulation_only import user_groups

SCORED = {"seq_len": 12, "max_tokens": 64}


def scores(*, users, losses, tokens, right=None):
    records = RecordScores(
        users=np.array(users),
        losses=np.array(losses, float),
        tokens=np.array(tokens),
        right=None if right is None else np.array(right),
    )
    return Evaluation(sum(losses) / sum(tokens), sum(tokens), records=records)


def test_each_records_loss_is_what_an_evaluation_of_it_alone_gives():
    model, people = tiny.language_model(), tiny.people(6)
    got = evaluate(model, model.initial, people, **SCORED)
    place = 0
    for user in range(len(people)):
        for record in people.records(user):
            alone = evaluate(
                model, model.initial, Population.of({"x": [record.tolist()]}), **SCORED
            )
            assert got.records.users[place] == user
            assert got.records.losses[place] == pytest.approx(alone.loss * alone.tokens, rel=1e-5)
            assert got.records.tokens[place] == alone.tokens
            place += 1
    assert place == len(got.records.losses)


def test_the_groups_of_a_trait_add_up_to_the_whole():
    people = tiny.people(20)
    whole = evaluate(tiny.language_model(), tiny.language_model().initial, people, **SCORED)
    rows = user_groups.rows(people, whole)
    for grouping in user_groups.GROUPS:
        members = [row for row in rows if row["grouping"] == grouping]
        assert sum(row["users"] for row in members) == 20
        assert sum(row["tokens"] for row in members) == whole.tokens
        total = sum(row["loss"] * row["tokens"] for row in members)
        assert total / whole.tokens == pytest.approx(whole.loss)


def test_a_group_is_scored_over_all_tokens_of_its_users():
    """By hand: users 0, 1, 2 hold 1, 2, 3 records; user 3 has none that is scored."""
    people = Population.of({"a": [[1, 2]], "b": [[1, 2]] * 2, "c": [[1, 2]] * 3, "d": [[1]]})
    given = scores(
        users=[0, 1, 1, 2, 2, 2], losses=[4, 1, 8, 1, 1, 1], tokens=[2, 1, 5, 1, 1, 2],
        right=[True, True, False, False, False, True],
    )  # fmt: skip
    rows = [row for row in user_groups.rows(people, given) if row["grouping"] == "records"]
    assert [(row["group"], row["users"], row["tokens"]) for row in rows] == [
        ("few", 1, 2),
        ("middle", 1, 6),
        ("many", 1, 4),
    ]
    assert [row["loss"] for row in rows] == [4 / 2, 9 / 6, 3 / 4]
    assert [row["accuracy"] for row in rows] == [1, 1 / 2, 1 / 3]


def test_length_counts_tokens_before_any_cut_and_a_class_is_no_token():
    people = Population.of({"a": [[1] * 40, [2] * 20], "b": [[~3] * 9 + [5]]})
    one = {"users": [0, 0, 1], "losses": [1, 1, 1], "tokens": [1, 1, 1]}
    assert user_groups.traits(people, scores(**one).records)["length"].tolist() == [30, 10]
    classes = scores(**one, right=[True] * 3)
    assert user_groups.traits(people, classes.records)["length"].tolist() == [29, 9]


def test_vocabulary_is_the_mean_log_frequency_among_all_other_users():
    people = tiny.people(7)
    everyone = {user: np.concatenate(people.records(user)).tolist() for user in range(len(people))}
    kinds = len({token for text in everyone.values() for token in text})
    one = evaluate(tiny.language_model(), tiny.language_model().initial, people, **SCORED)
    for user, text in everyone.items():
        others = Counter(t for u, other in everyone.items() if u != user for t in other)
        shares = [Fraction(others[t] + 1, others.total() + kinds) for t in text]
        wanted = sum(math.log(share) for share in shares) / len(text)
        got = user_groups.traits(people, one.records)["vocabulary"][user]
        assert got == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "thirds"),
    [
        ([5, 1, 3, 2, 6, 4], [2, 0, 1, 0, 2, 1]),
        ([1, 1, 1, 2, 2, 9], [0, 0, 0, 1, 1, 2]),
        ([7, 7, 7], [0, 0, 0]),
        ([1, 2], [0, 1]),
    ],
)
def test_thirds_are_cut_by_rank_and_equal_users_stay_together(values, thirds):
    assert user_groups.thirds(np.array(values, float)).tolist() == thirds


@pytest.mark.parametrize("on", [True, False])
def test_a_run_writes_its_groups_only_where_simulation_only_is_on(tmp_path, monkeypatch, on):
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    path = tmp_path / "run"
    overrides = small_world.overrides(f"output={path}", f"track.simulation_only={str(on).lower()}")
    assert cli.main(["run", *overrides]) == 0
    assert (path / "groups.csv").exists() == on
    if on:
        with (path / "groups.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["round", "grouping", "group", "users", "tokens", "loss"]
        assert {row["round"] for row in rows} == {"0", "2"}
        assert {row["grouping"] for row in rows} == {*user_groups.GROUPS}
