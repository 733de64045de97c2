"""What the attacker knows, held to what the nodes' own code selects for training."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from helpers import small_world
from userdp.analysis.user_inference import known_texts
from userdp.analysis.user_inference.options import Options
from userdp.clients.batching import unit_records
from userdp.server.mechanisms.base import RECORD_SLOT
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.data.corpus import Corpus
from userdp.sim.data.population import Population
from userdp.sim.planning import planner
from userdp.sim.protocol.contract import Assignment
from userdp.sim.run import node_setup

K, LENGTH = 2, 8


def settings(*overrides: str):
    words = small_world.overrides(
        f"strategy.records_per_user={K}", f"model.seq_len={LENGTH}", "privacy.users=50", *overrides
    )
    return hydra_compose.settings(words)[0]


@functools.cache
def corpus(kind: str = "user") -> Corpus:
    """Ten training users of one to five records; six more, or ("record") parts of the same."""
    source = np.random.default_rng(0)

    def people(names, offset=0):
        return Population.of(
            {
                name: [
                    source.integers(1, 60, source.integers(3, 14)).tolist()
                    for _ in range(1 + (number + offset) % 5)
                ]
                for number, name in enumerate(names)
            }
        )

    trained = people([f"t{i}" for i in range(10)])
    held = {"user": [f"o{i}" for i in range(6)], "record": ["t3", "t4", "t9"]}
    held["column"] = ["t3", "o1", "t9", "o2"]
    return Corpus(name=kind, train=trained, heldout=people(held[kind], 3), dropped={})


def contents(population: Population, user: int) -> set[bytes]:
    return {record[:LENGTH].tobytes() for record in population.records(user)}


def trained_on(one, users: Population, user: int, rounds: int = 6) -> set[bytes]:
    """All texts of a user that the nodes would train on in these rounds."""
    mechanism = planner.make(one, 50).mechanism
    seen = set()
    for number in range(1, rounds + 1):
        contract = mechanism.contract(number, node_setup.local_work(one))
        slots = np.arange(K) if mechanism.unit == RECORD_SLOT else np.empty(0, np.int64)
        units = np.full(max(1, len(slots)), user)
        fetched = unit_records.fetch(users, contract, Assignment(units, slots))
        seen |= {sequence.tobytes() for unit in fetched for sequence in unit}
    return seen


@pytest.mark.parametrize(
    "choice",
    [
        ("selection=longest", "strategy=user_wise"),
        ("selection=shortest", "strategy=user_wise"),
        ("selection=random", "strategy=group_privacy"),
        ("selection=random", "strategy=group_privacy", "strategy.resample=true"),
    ],
)
def test_a_fixed_selection_leaves_exactly_the_texts_that_no_round_trains_on(choice):
    one, data = settings(*choice), corpus()
    known = known_texts.known(one, data, Options())
    assert known.kind == known_texts.NOT_SELECTED
    for side, users in ((known.members, data.train), (known.others, data.heldout)):
        places = {int(key): place for place, key in enumerate(side.texts.user_keys)}
        for user, key in enumerate(users.user_keys.tolist()):
            fresh = contents(users, user) - trained_on(one, users, user)
            place = places.get(key)
            assert (contents(side.texts, place) if place is not None else set()) == fresh
            if place is not None:
                assert side.available[place] == len(users.records(user)) - K


def test_a_second_copy_of_a_selected_text_is_not_fresh():
    text = [5, 6, 7, 8]
    train = Population.of({"a": [text, text, [1, 2, 3]], "b": [text, text, text]})
    data = Corpus(name="copies", train=train, heldout=corpus().heldout, dropped={})
    one = settings("selection=longest", "strategy.records_per_user=1")
    known = known_texts.known(one, data, Options())
    assert [r.tolist() for r in known.members.texts.records(0)] == [[1, 2, 3]]
    assert len(known.members.texts) == 1


@pytest.mark.parametrize(
    "choice",
    [
        ("selection=random",),
        ("selection=longest", "strategy.records_per_user=all"),
        ("selection=longest", "strategy.records_per_user=9"),  # nobody has more
    ],
)
def test_where_every_record_may_train_the_texts_are_any(choice):
    data = corpus()
    known = known_texts.known(settings(*choice), data, Options())
    assert known.kind == known_texts.ANY
    assert len(known.members.texts) == len(data.train)
    assert set(known.others.texts.user_keys.tolist()) == set(data.heldout.user_keys.tolist())


def test_records_held_back_from_training_come_first():
    data = corpus("column")
    one = settings("selection=longest")
    known = known_texts.known(one, data, Options())
    assert known.kind == known_texts.HELD_BACK
    held = {int(key): user for user, key in enumerate(data.heldout.user_keys)}
    train = {int(key): user for user, key in enumerate(data.train.user_keys)}
    assert set(known.members.texts.user_keys.tolist()) == set(held) & set(train)
    assert set(known.others.texts.user_keys.tolist()) == set(held) - set(train)
    for place, key in enumerate(known.members.texts.user_keys.tolist()):
        assert contents(known.members.texts, place) == contents(data.heldout, held[key])
        assert known.members.available[place] == len(data.heldout.records(held[key]))


def test_a_run_in_which_everybody_trains_is_refused():
    with pytest.raises(ConfigurationError, match="one side has no text"):
        known_texts.known(settings("selection=longest"), corpus("record"), Options())


def test_planted_canaries_are_not_attacked():
    data = corpus()
    one = settings("data.canaries=4", "track.simulation_only=true")
    known = known_texts.known(one, data, Options())
    assert set(known.members.texts.user_keys.tolist()) == set(data.train.user_keys[:6].tolist())


def test_users_and_texts_are_limited_and_depend_on_the_seed_alone():
    data, one = corpus(), settings()
    few = [
        known_texts.known(one, data, Options(texts=2, users=4, seed=seed)).members.texts
        for seed in (0, 0, 1)
    ]
    assert [len(texts) for texts in few] == [4, 4, 4]
    assert max(np.diff(few[0].user_offsets)) == 2
    assert few[0].content_digest() == few[1].content_digest() != few[2].content_digest()
