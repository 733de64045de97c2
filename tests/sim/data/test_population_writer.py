"""Populations larger than memory: built by streaming, mapped at the start, drawn from by cohort."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny
from userdp.clients.batching import unit_records
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.data import corpus, population_writer
from userdp.sim.data.corpus import Corpus, Example
from userdp.sim.data.population import Population

ARRAYS = ("tokens", "record_offsets", "user_records", "user_offsets", "user_keys")
EXAMPLES = st.lists(
    st.builds(Example, st.sampled_from("abcdefg"), st.text(max_size=5), st.booleans()), max_size=40
)


def encode(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def in_memory(examples: list[Example], held_out: bool) -> Population:
    """The same records grouped by lists of objects; the storage order is the order they came in."""
    chosen = [example for example in examples if example.held_out == held_out]
    people: dict[str, list[int]] = {}
    for number, example in enumerate(chosen):
        people.setdefault(example.user, []).append(number)
    stored = Population.of({str(i): [encode([e.content])[0]] for i, e in enumerate(chosen)})
    grouped = Population.of({name: [[0]] * len(numbers) for name, numbers in people.items()})
    return Population(
        tokens=stored.tokens,
        record_offsets=stored.record_offsets,
        user_records=np.array([n for numbers in people.values() for n in numbers], np.int64),
        user_offsets=grouped.user_offsets,
        user_keys=grouped.user_keys,
    )


@pytest.mark.parametrize("batch", [1, 7])
def test_a_streamed_build_is_the_build_in_memory(batch, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(
        population_writer, "_CHUNK", 3
    )  # the records of one user lie in many chunks
    monkeypatch.setattr(corpus, "_BATCH", batch)

    @settings(max_examples=50, deadline=None)
    @given(EXAMPLES)
    def check(examples):
        folder = tmp_path_factory.mktemp("corpus")
        corpus.write(folder, iter(examples), encode, {})
        built = Corpus.load(folder)
        for held_out, side in ((False, built.train), (True, built.heldout)):
            expected = in_memory(examples, held_out)
            for name in ARRAYS:
                np.testing.assert_array_equal(getattr(side, name), getattr(expected, name), name)
        assert {path.stem for path in (folder / "train").iterdir()} == set(ARRAYS)

    check()


def peak(work: Callable[[], object]) -> int:
    """Most bytes that Python and NumPy held at once for this work; maps are not counted."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_of_a_build_does_not_grow_with_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(population_writer, "_CHUNK", 500)
    monkeypatch.setattr(corpus, "_BATCH", 100)

    def build(records: int) -> int:
        folder = tmp_path / str(records)
        folder.mkdir()
        examples = (Example(f"u{i * 7919 % 50}", "text", False) for i in range(records))
        return peak(lambda: corpus.write(folder, examples, encode, {}))

    build(1000)  # what is allocated once
    assert build(20_000) < 1.2 * build(2000) + 10_000


def large(users: int, folder: Path) -> Population:
    """Four records of five tokens for each user, scattered over the file; mapped from disk."""
    records = 4 * users
    Population(
        tokens=np.arange(5 * records, dtype=np.int32) % tiny.VOCABULARY,
        record_offsets=np.arange(0, 5 * records + 1, 5),
        user_records=np.arange(records).reshape(4, users).T.ravel(),
        user_offsets=np.arange(0, records + 1, 4),
        user_keys=np.arange(users, dtype=np.uint64),
    ).save(folder)
    return Population.load(folder)


@pytest.mark.parametrize("rule", ["random", "longest", "random_chunk"])
def test_a_cohort_costs_itself_and_not_the_population(rule, tmp_path):
    def cost(users: int) -> int:
        people = large(users, tmp_path / f"{rule}{users}")
        mechanism = UserWise(
            users=users, cohort=50, clip_norm=1.0, noise_multiplier=1.0, records_per_user=2
        )
        contract = tiny.contract(mechanism, selection=rule)

        def work() -> None:
            assignment = mechanism.draw(rng.Secrets(replay_seed=users).stream("cohort", 1), 1)
            fetched = list(unit_records.fetch(people, contract, assignment))
            assert 0 < len(fetched) < 120
            assert all(fetched)

        return peak(work)

    cost(1000)  # what is imported or cached once
    assert cost(200_000) < 2 * cost(1000)


def test_loading_reads_nothing(tmp_path):
    large(100_000, tmp_path)
    assert peak(lambda: Population.load(tmp_path)) < 100_000  # bytes; the tokens alone are 8 MB
