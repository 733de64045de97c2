"""The population of form letters: nearly the same texts, functions of seed and number."""

from __future__ import annotations

import collections

import pytest

from helpers.words import Words
from userdp.sim.data import loading
from userdp.sim.data.synthetic import form_letters
from userdp.sim.data.synthetic import users as synthetic


@pytest.fixture(scope="module")
def users():
    return dict(form_letters.private_users(0, 500))


def test_nine_users_in_ten_hold_the_very_same_letters(users):
    texts = collections.Counter(map(tuple, users.values()))
    [(common, count), (_, next_count)] = texts.most_common(2)
    assert list(common) == form_letters.letters(0)
    assert 430 <= count <= 475
    assert next_count == 1


def test_the_others_put_a_line_of_their_own_before_each(users):
    sent = form_letters.letters(0)
    for texts in users.values():
        assert len(texts) == form_letters.LETTERS == len(set(texts))
        assert all(text.endswith(letter) for text, letter in zip(texts, sent, strict=True))


def test_texts_are_functions_of_seed_and_number_alone(users):
    assert dict(form_letters.private_users(0, 50)) == dict(list(users.items())[:50])
    assert form_letters.letters(1) != form_letters.letters(0)


def test_the_corpus_is_cached_apart_from_the_synthetic_users(tmp_path):
    corpus = loading.generate(form_letters.POPULATION, 0, 60, Words(), tmp_path)
    assert len(corpus.train) + len(corpus.heldout) == 60
    again = loading.generate(form_letters.POPULATION, 0, 60, Words(), tmp_path)
    assert (again.train.tokens == corpus.train.tokens).all()
    loading.generate(synthetic.POPULATION, 0, 60, Words(), tmp_path)
    assert len(list((tmp_path / "corpora").iterdir())) == 2
