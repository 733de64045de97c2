"""Selection rules: at most k of one user's own sequences, by definition, and no one else's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Selection
from userdp.sim.data import selection
from userdp.sim.data.selection import RULES

RECORDS = st.lists(
    st.lists(st.integers(0, 9), min_size=2, max_size=9).map(np.array), min_size=0, max_size=8
)
K = st.integers(0, 9)
CUT = st.integers(2, 9)


def stream(number=0):
    return rng.generator(0, "selection", number)


def of(tokens, perplexity=None):
    """One user's records, with scores that grow with the record's number unless given."""
    scores = np.arange(len(tokens)) if perplexity is None else perplexity
    return selection.Records(tokens=tokens, perplexity=np.asarray(scores, np.float32))


def plain(sequences):
    return [tuple(sequence) for sequence in sequences]


@given(RECORDS, K, CUT, st.sampled_from(["longest", "shortest"]))
def test_by_length_equals_repeatedly_taking_the_first_extreme_record(records, k, cut, name):
    extreme = {"longest": max, "shortest": min}[name]
    left, wanted = list(range(len(records))), []
    while left and (k == 0 or len(wanted) < k):
        best = extreme(len(records[i]) for i in left)
        first = next(i for i in left if len(records[i]) == best)
        left.remove(first)
        wanted.append(tuple(records[first][:cut]))
    assert plain(RULES.find(name).select(of(records), k, cut, stream())) == wanted


@given(st.lists(st.integers(2, 9), max_size=8), K, CUT)
def test_random_takes_k_distinct_records_or_all(lengths, k, cut):
    records = [np.full(length, number) for number, length in enumerate(lengths)]
    chosen = selection.random(of(records), k, cut, stream())
    numbers = [int(sequence[0]) for sequence in chosen]
    assert len(numbers) == len(set(numbers)) == (min(k, len(lengths)) if k else len(lengths))
    assert [len(s) for s in chosen] == [min(cut, lengths[n]) for n in numbers]


def uniform_pairs(choose):
    """p-value of: every ordered pair of 4 records is chosen equally often."""
    records = [np.array([number, 9]) for number in range(4)]
    counts = np.zeros((4, 4))
    for number in range(6000):
        first, second = choose(records, stream(number))
        counts[first[0], second[0]] += 1
    return stats.chisquare(counts[~np.eye(4, dtype=bool)]).pvalue if not counts.trace() else 0.0


def test_random_is_uniform_and_a_rotation_or_replacement_is_not():
    assert uniform_pairs(lambda records, s: selection.random(of(records), 2, 9, s)) > 1e-3

    def rotated(records, source):
        start = source.integers(4)
        return records[start], records[(start + 1) % 4]

    assert uniform_pairs(rotated) < 1e-6
    assert uniform_pairs(lambda records, s: [records[i] for i in s.integers(0, 4, 2)]) < 1e-6


@given(st.lists(st.integers(2, 9), min_size=1, max_size=8), K, CUT, st.integers(0, 99))
def test_chunks_are_contiguous_windows_of_the_joined_text(lengths, k, cut, number):
    joined = np.arange(sum(lengths))
    records = np.split(joined, np.cumsum(lengths)[:-1])
    chunks = selection.random_chunk(of(records), k, cut, stream(number))
    for chunk in chunks:
        assert (np.diff(chunk) == 1).all()
        assert len(chunk) <= cut
    if len(joined) <= cut:
        assert plain(chunks) == [tuple(joined)]
    elif k == 0:
        rest = len(joined) % cut == 1  # the one token at the end would predict nothing
        assert np.concatenate(chunks).tolist() == joined[: len(joined) - rest].tolist()
    else:
        assert [len(chunk) for chunk in chunks] == [cut] * k


def test_every_window_is_equally_likely_the_first_and_the_last_too():
    records = [np.arange(5), np.arange(5, 12)]
    starts = [selection.random_chunk(of(records), 1, 4, stream(i))[0][0] for i in range(4500)]
    counts = np.bincount(starts, minlength=9)
    assert len(counts) == 9
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("name", list(RULES))
def test_a_user_without_records_gives_nothing(name):
    assert RULES.find(name).select(of([]), 3, 5, stream()) == []


@pytest.mark.parametrize("name", list(RULES))
def test_a_rule_is_a_function_of_the_records_and_its_stream(name):
    records, select = [np.arange(n) + 10 * n for n in (3, 5, 5, 2, 7)], RULES.find(name).select
    first, second = (plain(select(of(records), 3, 4, stream(8))) for _ in range(2))
    assert first == second


@given(st.lists(st.sampled_from([1.5, 2, 2.5, 3, np.nan]), max_size=9), K)
def test_by_perplexity_equals_sorting_by_score_then_number_and_nan_comes_last(scores, k):
    records = [np.array([number, 9]) for number in range(len(scores))]
    for name, sign in [("low_perplexity", 1), ("high_perplexity", -1)]:
        known = sorted((i for i, s in enumerate(scores) if s == s), key=lambda i: sign * scores[i])
        wanted = [*known, *(i for i, s in enumerate(scores) if s != s)][: k or None]
        got = RULES.find(name).select(of(records, scores), k, 9, stream())
        assert [int(sequence[0]) for sequence in got] == wanted


@pytest.mark.parametrize("name", ["high_perplexity", "low_perplexity"])
def test_selection_by_perplexity_without_scores_is_refused(name):
    with pytest.raises(ValueError, match="there are none"):
        RULES.find(name).select(selection.Records(tokens=[np.arange(3)]), 1, 5, stream())


@pytest.mark.parametrize("name", list(RULES))
def test_a_record_whose_cut_has_nothing_to_predict_takes_nobodys_place(name):
    long_prompt, answer, single = [~1, ~2, ~3, ~4, 5], [~1, 2], [7]
    records = of([np.array(r) for r in (long_prompt, single, answer, long_prompt, single)])
    for k in (0, 1, 2):
        chosen = RULES.find(name).select(records, k, 4, stream(k))
        assert all((sequence[1:] >= 0).any() for sequence in chosen)
        if name != "random_chunk":
            assert plain(chosen) == [(~1, 2)]


@given(RECORDS.filter(len), st.integers(1, 12), st.booleans())
def test_slots_are_exactly_k_own_sequences_first_then_own_again_or_empty(records, k, resample):
    chosen = records[:k]
    slots = selection.fill_slots(chosen, k, resample=resample, source=stream())
    assert len(slots) == k
    assert all(slot is record for slot, record in zip(slots, chosen, strict=False))
    for extra in slots[len(chosen) :]:
        if resample:
            assert any(extra is record for record in chosen)
        else:
            assert extra is None


def test_a_user_without_sequences_has_k_empty_slots_even_with_resampling():
    assert selection.fill_slots([], 3, resample=True, source=stream()) == [None] * 3


def test_slots_are_refilled_uniformly():
    chosen = [np.array([number]) for number in range(3)]
    counts = np.zeros(3)
    for number in range(1500):
        slots = selection.fill_slots(chosen, 5, resample=True, source=stream(number))
        np.add.at(counts, [int(slot[0]) for slot in slots[3:]], 1)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_general_code_reads_the_properties_of_a_rule_from_its_entry():
    rules = {name: RULES.find(name) for name in RULES}
    assert [name for name in rules if rules[name].drawn_anew] == ["random", "random_chunk"]
    assert [name for name in rules if rules[name].crosses_records] == ["random_chunk"]
    assert [name for name in rules if rules[name].fits_labels] == ["random", "longest", "shortest"]
    by_perplexity = ["high_perplexity", "low_perplexity"]
    assert [name for name in rules if rules[name].needs_perplexity] == by_perplexity


@pytest.fixture
def outside(monkeypatch):
    """Makes the rule of `toys.most_distinct` importable, as an installed package is."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "extension")


@pytest.mark.usefixtures("outside")
def test_a_rule_outside_userdp_is_found_by_its_dotted_name():
    name = "toys.most_distinct.RULE"
    assert Selection(rule=name).rule == name
    records = of([np.array(tokens) for tokens in ([5, 5, 5], [1, 2, 3, 4], [6, 6, 7])])
    chosen = RULES.find(name).select(records, 2, 3, stream())
    assert plain(chosen) == [(1, 2, 3), (6, 6, 7)]


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("name", ["lonegst", "toys.most_distinct.FIRST"])
def test_an_unknown_rule_is_refused_in_one_line(name):
    with pytest.raises(ConfigurationError, match=f"^selection.rule={name}: ") as caught:
        Selection(rule=name)
    assert "\n" not in str(caught.value)
