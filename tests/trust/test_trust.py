"""A small share of `make trust`, and (slow) that the long checks find what they are there for."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from trust import fuzz, kills, mutations, nonsense

from helpers import small_world
from userdp.server.strategy import PrivateStrategy
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run import runner

pytestmark = pytest.mark.slow  # whole runs

SEED = 3


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def test_configurations_end_well_or_in_one_line(tmp_path):
    outcomes = fuzz.tried(SEED, range(12), tmp_path)
    assert [outcome.told for _, outcome in outcomes if outcome.kind == "fault"] == []
    assert set(fuzz.counts(outcomes)) >= {"success", "refused"}


def test_a_value_without_sense_is_refused_by_name_or_runs(monkeypatch):
    monkeypatch.setattr(nonsense.time_limit, "SECONDS", 15)
    results = nonsense.tried(SEED, range(24))
    assert [(one.broken.words, one.told) for one in results if one.fault] == []
    assert sum(one.kind == "refused" for one in results) > 12


def test_the_nonsense_fuzz_finds_what_it_is_there_for(monkeypatch):
    def wrong(words):
        if words == ["x"]:
            raise KeyError("locker")
        if words == ["y"]:
            raise ConfigurationError("something is wrong")

    monkeypatch.setitem(nonsense.VERBS, "prepare", wrong)
    kinds = [
        nonsense.outcome(nonsense.Broken("prepare", (word,), ("rounds",), True)).kind
        for word in "xyz"
    ]
    assert kinds == ["traceback", "unnamed", "accepted"]


def test_the_fuzz_finds_a_traceback_and_a_claim_that_is_too_small(tmp_path, monkeypatch):
    configuration = small_world.overrides("cohort=12", "privacy.users=40")
    assert fuzz.ran(configuration, tmp_path / "good").kind == "success"
    with monkeypatch.context() as patch:
        patch.setattr(runner.run_summary, "print_start", lambda *_, **__: {}["locker"])
        assert "KeyError" in fuzz.ran(configuration, tmp_path / "bad").told
    stated = tmp_path / "good" / "privacy_statement.json"
    text = stated.read_text()
    stated.write_text(text.replace('"epsilon": 7', '"epsilon": 6'))
    assert stated.read_text() != text
    assert fuzz.claim_checked(tmp_path / "good").kind == "fault"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed run is a fork")
@pytest.mark.parametrize("number", range(2))
def test_a_run_that_was_killed_anywhere_ends_with_every_round_accounted_for(tmp_path, number):
    run = kills.killed(SEED, number, tmp_path)
    assert run.faults == ()
    assert run.kills >= 1
    assert run.vectors >= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed run is a fork")
def test_the_kills_find_noise_that_comes_again_and_a_draw_before_its_intent(tmp_path, monkeypatch):
    class Late(PrivateStrategy):
        """Draws noise when the round begins, and the same in every round."""

        def configure_train(self, *args):
            kills.rng.Secrets().stream("noise", self.ledger.next_round)
            kills.rng.standard_normal(kills.rng.Replayed(np.random.default_rng(0)), 9)
            return super().configure_train(*args)

    monkeypatch.setattr(runner, "PrivateStrategy", Late)
    faults = kills.killed(SEED, 0, tmp_path).faults
    assert "a noise vector was drawn twice" in faults
    assert "noise was drawn ahead of its intent" in faults


def named(part):
    [mutation] = [mutation for mutation in mutations.MUTATIONS if part in mutation.name]
    return mutation


def test_a_mutation_is_applied_to_a_copy_and_caught_there(tmp_path):
    mutation = named("plain hash")  # whose tests are quick
    before = (mutations.ROOT / mutation.file).read_text()
    assert not mutations.survives(mutation, mutations.copied(tmp_path))
    assert (mutations.ROOT / mutation.file).read_text() == before
    assert (tmp_path / mutation.file).read_text() == before


def test_without_a_mutation_the_tests_pass_and_a_harmless_one_survives(tmp_path):
    tree, mutation = mutations.copied(tmp_path), named("plain hash")
    assert mutations.tests_pass(mutation.tests.split(), tree)
    harmless = dataclasses.replace(mutation, old="[:32]", new="[:32][:32]")
    assert mutations.survives(harmless, tree)


def test_every_mutation_names_text_that_is_there_and_tests_that_exist():
    for mutation in mutations.MUTATIONS:
        text = (mutations.ROOT / mutation.file).read_text()
        assert text.count(mutation.old) == 1, mutation.name
        assert mutation.new != mutation.old
        for path in mutation.tests.split():
            assert (mutations.ROOT / path).exists(), path
    assert len({mutation.name for mutation in mutations.MUTATIONS}) == len(mutations.MUTATIONS)
