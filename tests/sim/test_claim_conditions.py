"""What stands beside epsilon in a claim: a counted N, and held-out records of users who train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import small_world
from helpers.statements import HEADER, built
from helpers.whole_runs import check_refused, ran, stated
from userdp.server.ledger import ledger
from userdp.server.statement import conditions, prose
from userdp.sim import cli
from userdp.sim.config import hydra_compose
from userdp.sim.run import ledger_header

SCORES = "It does not cover the published scores"
ONE_NODE = "all records of a user are on one node"
COUNTED = "was counted from the training data once and is treated as public"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def claims_of(folder: Path, capsys) -> list[str]:
    """The claim as terminal, statement, card, `verify` and `report` give it, in one line each."""
    texts = [capsys.readouterr().out, prose.claim(stated(folder))]
    texts.append((folder / "adapter" / "README.md").read_text())
    assert cli.main(["verify", str(folder)]) == 0
    texts.append(capsys.readouterr().out)
    assert cli.main(["report", str(folder)]) == 0
    texts.append(Path(capsys.readouterr().out.splitlines()[-1]).read_text())
    return [" ".join(text.split()) for text in texts]


@pytest.mark.slow
def test_a_counted_number_of_users_is_told_in_every_claim_and_a_declared_one_in_none(capsys):
    counted = ran("counted")
    warned = [line for line in capsys.readouterr().err.splitlines() if "privacy.users=N" in line]
    assert len(warned) == 1
    said = stated(counted)
    assert said["adjacency"] == "zero-out-one-user"
    users = said["declared_users"]
    declared = ran("declared", f"privacy.users={users}")
    assert "privacy.users=N" not in capsys.readouterr().err
    first = prose.claim(said).partition(". Epsilon is")[0]
    assert first.endswith(f"number of users stays, where the number of users, {users}, {COUNTED}")
    for text in claims_of(counted, capsys)[1:]:
        assert f"{users}, {COUNTED}" in text
    other = stated(declared)
    assert other["adjacency"] == "add-or-remove-one-user"
    assert COUNTED not in prose.text(other)
    alike = ("epsilon", "epsilon_lower", "delta", "noise_multiplier", "sampling", "denominator")
    assert {name: said[name] for name in alike} == {name: other[name] for name in alike}


@pytest.mark.slow
def test_scores_of_records_whose_owners_train_are_told_in_every_claim(capsys):
    folder = ran("by-record", "data.split=record", "privacy.users=40")
    for text in claims_of(folder, capsys):
        assert SCORES in text
    said = stated(folder)
    assert conditions.HELD_OUT_RECORDS in said["not_covered"]
    assert conditions.HELD_OUT_USERS not in said["not_covered"]
    assert "scores on held-out records, also of users who train" in said["released"]
    assert ledger.verify(folder / "ledger.jsonl").header["split"] == "record"
    path = folder / "privacy_statement.json"
    told = json.dumps(said).replace(conditions.HELD_OUT_RECORDS, conditions.HELD_OUT_USERS)
    path.write_text(told)
    check_refused(capsys, ["verify", str(folder)], "not_covered")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, False),  # an older ledger
        ({"split": "user"}, False),
        ({"split": "record"}, True),
        ({"split": "column"}, True),  # a user may have rows on both sides
        ({"split": "column", "unit": "record", "records_per_user": 1}, False),
    ],
)
def test_what_a_split_leaves_without_protection(changes, told):
    said = built({**HEADER, **changes})
    assert (SCORES in prose.claim(said)) is told
    assert (conditions.HELD_OUT_RECORDS in said["not_covered"]) is told
    assert (conditions.HELD_OUT_USERS in said["not_covered"]) is not told
    assert bool(conditions.of_runs([said, said])) is told
    assert conditions.of_runs([{}]) == []


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        ("0123456789abcdef" * 2, "userdp shard checked it for the cut 01234567"),
        (None, "nothing checked it"),
    ],
)
def test_where_nodes_hold_records_each_user_is_on_one_node_by_condition(cut, told):
    said = built({**HEADER, "nodes_hold_records": {"cut": cut}})
    first = prose.claim(said).partition(". Epsilon is")[0]
    assert f"where {ONE_NODE}" in first
    assert told in first
    assert ONE_NODE not in prose.text(built(HEADER))


@pytest.mark.parametrize(
    ("overrides", "counted"),
    [
        ([], False),  # a generated population: its size follows from the configuration
        (["data=form_letters"], False),
        (["data=jsonl", "data.path=mail.jsonl"], True),
        (["data=jsonl", "data.path=mail.jsonl", "privacy.users=9"], False),
    ],
)
def test_which_runs_count_their_users(overrides, counted):
    assert hydra_compose.settings(overrides)[0].counts_users is counted


def test_an_older_ledger_keeps_its_words_when_its_run_is_resumed():
    new = {
        "split": "user",
        "users_counted": True,
        "adjacency": "zero-out-one-user",
        "optimizer": {"name": "adam", "lr": 0.1},
    }
    old = {
        "users_counted": True,
        "adjacency": "add-or-remove-one-user",
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1},
    }
    assert ledger_header.continued(new, old, counted=True) == old
    assert ledger_header.continued(new, new, counted=True) == new
    now_declared = {**new, "users_counted": False, "adjacency": "add-or-remove-one-user"}
    assert ledger_header.continued(now_declared, old, counted=False)["users_counted"] is False
    by_record = ledger_header.continued({**new, "split": "record"}, old, counted=True)
    assert by_record["split"] == "record"  # the ledger refuses it: it was another split
    faster = {**new, "optimizer": {"name": "adam", "lr": 0.2}}
    assert ledger_header.continued(faster, old, counted=True)["optimizer"] == faster["optimizer"]
