"""Planted secrets change nobody else, and their exposure is the rank that it says it is."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from helpers import small_world
from userdp.clients.evaluation import heldout
from userdp.sim import cli
from userdp.sim.config import hydra_compose
from userdp.sim.data import canaries
from userdp.sim.data.population import Population
from userdp.sim.inputs import run_inputs
from userdp.sim.run.simulation_only import canary_exposure

REFERENCES = 1024
LONG = ["model.seq_len=32", "track.simulation_only=true"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def settings(*more):
    return hydra_compose.settings(small_world.overrides(*LONG, *more))[0]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def after(folder, rounds):
    """Exposure of each canary after the last round."""
    lines = rows(folder / "exposure.csv")
    return [float(row["exposure_bits"]) for row in lines if row["round"] == str(rounds)]


def test_canaries_come_behind_the_users_who_stay_as_they_were():
    plain = run_inputs.build(settings())
    some = run_inputs.build(settings("data.canaries=3", "data.canary_records=2"))
    count = len(plain.corpus.train)
    assert len(some.corpus.train) == count + 3
    assert some.corpus.name != plain.corpus.name  # a cache of scores is named by it
    for user in range(count):
        assert plain.corpus.train.user_keys[user] == some.corpus.train.user_keys[user]
        for first, second in zip(
            plain.corpus.train.records(user), some.corpus.train.records(user), strict=True
        ):
            np.testing.assert_array_equal(first, second)
    for name in ("tokens", "record_offsets", "user_records", "user_offsets", "user_keys"):
        one, other = getattr(plain.corpus.heldout, name), getattr(some.corpus.heldout, name)
        np.testing.assert_array_equal(one, other)
    secrets = []
    for i in range(3):
        first, second = some.corpus.train.records(count + i)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, some.canaries.secrets.records(i)[0])
        secrets.append(tuple(first))
    assert len(set(secrets)) == 3
    assert len(np.unique(some.corpus.train.user_keys)) == count + 3


def test_joining_keeps_users_whose_slots_are_empty_and_records_that_nobody_holds():
    people = Population.of({"a": [[1, 2], [3]], "b": [[4, 5, 6]]}).emptied(0)
    other = Population.of({"c": [[7]], "d": [[8, 9], [1]]})
    joined = canaries._joined(people, other)
    held = [[r.tolist() for r in joined.records(user)] for user in range(len(joined))]
    assert held == [[], [[4, 5, 6]], [[7]], [[8, 9], [1]]]


def test_another_number_of_canaries_gives_the_first_ones_the_same_secrets():
    few, many = (
        run_inputs.build(settings(f"data.canaries={n}", "data.canary_references=20")).canaries
        for n in (2, 5)
    )
    for i in range(2):
        np.testing.assert_array_equal(few.secrets.records(i)[0], many.secrets.records(i)[0])
    for i in range(20):
        one, other = few.secrets.records(2 + i)[0], many.secrets.records(5 + i)[0]
        np.testing.assert_array_equal(one, other)


def test_a_rank_is_the_place_among_references_scored_one_by_one():
    inputs = run_inputs.build(settings("data.canaries=4", "data.canary_references=30"))
    source = np.random.default_rng(0)
    adapter = inputs.model.initial.numpy() + source.normal(0, 0.3, inputs.model.layout.size)
    alone = []
    for i in range(34):
        record = Population.of({"x": [inputs.canaries.secrets.records(i)[0].tolist()]})
        vector = heldout.torch.from_numpy(adapter.astype(np.float32))
        one = heldout.evaluate(inputs.model, vector, record, seq_len=99, max_tokens=64)
        alone.append(one.loss * one.tokens)
    got = canary_exposure.ranks(inputs.canaries, inputs.model, adapter, max_tokens=200)
    wanted = [sorted([alone[i], *alone[4:]]).index(alone[i]) + 1 for i in range(4)]
    assert got.tolist() == wanted
    bits = canary_exposure.bits(got, 30)
    assert bits.tolist() == pytest.approx([math.log2(31 / rank) for rank in wanted])


def test_ties_and_losses_that_are_no_numbers_count_against_memory():
    own, references = np.array([1.0, 2.0, math.nan, 0.5]), np.array([1.0, 2.0, 3.0])
    assert canary_exposure.ranked(own, references).tolist() == [2, 3, 4, 1]


def test_without_training_the_mean_exposure_is_that_of_a_uniform_rank():
    """(1/n) sum of log2(n / rank), near 1 / ln 2; nats in the place of bits are refused."""
    count = 400
    inputs = run_inputs.build(settings(f"data.canaries={count}"))
    ranks = canary_exposure.ranks(
        inputs.canaries, inputs.model, inputs.model.initial.numpy(), max_tokens=4096
    )
    n = REFERENCES + 1
    wanted = math.log2(n) - special.gammaln(n + 1) / math.log(2) / n
    assert wanted == pytest.approx(1 / math.log(2), abs=0.01)
    deviation = 1 / math.log(2) / math.sqrt(count)
    got = canary_exposure.bits(ranks, REFERENCES).mean()
    assert abs(got - wanted) < 4 * deviation
    assert abs(got * math.log(2) - wanted) > 4 * deviation


FIT = ["data.canaries=3", "data.canary_references=255", "rounds=100", "cohort=7", "eval_every=100",
       "optimizer=adam", "optimizer.lr=0.02", "model.lora.r=8", "seed=3",
       "privacy.reproducible=true"]  # fmt: skip


@pytest.mark.slow
def test_an_overfitted_run_remembers_its_canaries_and_a_strongly_private_one_does_not(capsys):
    """Six other users, so that the secrets are a good part of what there is to learn."""
    people = [{"user_id": f"u{i}", "text": f"the cat sat on a mat {i}"} for i in range(6)]
    Path("few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))
    for name, more in (("non_private", []), ("user_wise", ["privacy.epsilon=0.3"])):
        own = ["data.path=few.jsonl", f"strategy={name}", f"output={name}", *more]
        assert cli.main(["run", *small_world.overrides(*LONG, *FIT, *own)]) == 0
    free, private = Path("non_private"), Path("user_wise")
    assert after(free, 100) == [8, 8, 8]  # log2(255 + 1): likelier than every reference
    assert np.mean(after(private, 100)) < 4
    assert after(free, 0) == after(private, 0)
    assert "8.0 after (chance gives 1.4, at most 8.0)" in capsys.readouterr().out


def test_a_run_with_canaries_says_so_and_counts_them():
    asked = small_world.overrides(*LONG, "data.canaries=3", "output=run")
    assert cli.main(["run", *asked]) == 0
    statement = json.loads(Path("run/privacy_statement.json").read_text())
    [line] = [text for text in statement["assumptions"] if "canaries" in text]
    assert line.startswith("3 of the declared users are canaries")
    assert statement["declared_users"] == len(run_inputs.build(settings()).corpus.train) + 3
    summary = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    mean = np.mean(after(Path("run"), 2))
    assert summary["summary/simulation_only/canary_exposure"] == pytest.approx(mean)
    assert cli.main(["verify", "run"]) == 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["data.canaries=-1"], "data.canaries=-1"),
        (["data.canaries=2", "data.canary_records=0"], "data.canary_records=0"),
        (["data.canaries=2", "data.canary_references=0"], "data.canary_references=0"),
        (["data.canaries=2", "track.simulation_only=false"], "track.simulation_only=true"),
        (["data.canaries=2", "model.seq_len=16"], "model.seq_len=16"),
        (["data.canaries=2", "data.label=mood", "data.classes=2"], "data.label"),
    ],
)
def test_what_cannot_be_planted_is_refused_in_one_line(capsys, wrong, named):
    asked = small_world.overrides(*LONG, "output=run", *wrong)
    assert cli.main(["run", *asked]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not Path("run").exists()
