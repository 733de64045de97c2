import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdp.sim.data import population
from userdp.sim.data.population import Population

USERS = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.lists(st.lists(st.integers(0, 70_000), max_size=4), max_size=4),
    max_size=6,
)


def plain(people: Population) -> list[list[list[int]]]:
    return [[r.tolist() for r in people.records(user)] for user in range(len(people))]


@settings(max_examples=60, deadline=None)
@given(USERS)
def test_of_gives_back_the_lists_it_was_made_from(users):
    assert plain(Population.of(users)) == list(users.values())


@settings(max_examples=40, deadline=None)
@given(users=USERS)
def test_a_saved_population_maps_back_equal_and_read_only(users, tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    people = Population.of(users)
    people.save(folder)
    mapped = Population.load(folder)
    assert plain(mapped) == plain(people)
    np.testing.assert_array_equal(mapped.user_keys, people.user_keys)
    with pytest.raises(ValueError, match="read-only"):
        mapped.user_offsets[0] = 1


@settings(max_examples=60, deadline=None)
@given(USERS.filter(len), st.data())
def test_emptied_takes_one_users_records_and_changes_nobody_else(users, data):
    people = Population.of(users)
    gone = data.draw(st.integers(0, len(people) - 1))
    neighbour = people.emptied(gone)
    expected = plain(people)
    expected[gone] = []
    assert plain(neighbour) == expected
    np.testing.assert_array_equal(neighbour.user_keys, people.user_keys)
    assert plain(people) == list(users.values())  # the original stays


def test_record_counts_and_interleaved_storage():
    people = Population(
        tokens=np.array([1, 2, 2, 3], np.uint32),
        record_offsets=np.array([0, 1, 3, 4]),
        user_records=np.array([0, 2, 1]),
        user_offsets=np.array([0, 2, 3]),
        user_keys=np.array([7, 8], np.uint64),
    )
    assert plain(people) == [[[1], [3]], [[2, 2]]]
    assert np.diff(people.user_offsets).tolist() == [2, 1]


def test_user_key_is_the_same_in_every_process():
    assert population.user_key("ada") == 2811677874490880021
