import collections
import hashlib
import random
import re
import statistics

import pytest

from helpers.words import Words
from userdp.sim.data import loading
from userdp.sim.data.synthetic import grammar
from userdp.sim.data.synthetic import users as synthetic


@pytest.fixture(scope="module")
def users() -> dict[str, list[str]]:
    return dict(synthetic.private_users(0))


@pytest.fixture(scope="module")
def public() -> list[str]:
    return synthetic.public_text(0)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def test_record_counts_are_heavy_tailed(users):
    counts = sorted(map(len, users.values()))
    assert len(counts) == synthetic.USERS >= 2000
    assert counts[0] == 1
    assert 5 <= statistics.median(counts) <= 7
    assert 150 <= counts[-1] <= 400
    assert sum(counts[-len(counts) // 10 :]) > 0.35 * sum(counts)  # the top tenth of the users


def test_records_differ_in_length_from_a_few_words_to_two_hundred(users):
    lengths = [len(text.split()) for texts in users.values() for text in texts]
    assert min(lengths) >= 4
    assert 120 <= max(lengths) <= 260
    assert statistics.quantiles(lengths, n=10)[8] > 5 * statistics.quantiles(lengths, n=10)[0]


def test_public_text_is_a_few_hundred_thousand_words(public):
    assert 300_000 < sum(len(text.split()) for text in public) < 900_000


def test_texts_are_functions_of_seed_and_number_alone(users):
    assert dict(synthetic.private_users(0, 50)) == dict(list(users.items())[:50])
    assert dict(synthetic.private_users(1, 50)) != dict(synthetic.private_users(0, 50))
    state = random.getstate()
    synthetic.user_records(0, 3)
    assert random.getstate() == state


def test_the_version_stands_for_these_very_texts(users, public):
    digest = hashlib.sha256(repr([public, users]).encode()).hexdigest()
    assert (synthetic.VERSION, digest[:16]) == (2, "a26a7fc0f015a3ab")


def test_a_users_secret_words_occur_with_no_other_user_and_not_in_public(users, public):
    owners = collections.defaultdict(set)
    for user, texts in users.items():
        for word in {word for text in texts for word in words(text)}:
            owners[word].add(user)
    for word in {word for text in public for word in words(text)}:
        owners[word].add("public")
    revealed = 0
    for number, user in enumerate(users):
        for secret in synthetic.habits_of(0, number).secret_words:
            assert owners[secret] <= {user}
            revealed += bool(owners[secret])
    assert revealed > len(users)  # of two secrets each, most occur in a record


def test_active_users_repeat_their_secrets(users):
    for number, texts in enumerate(users.values()):
        if len(texts) >= 40:
            for secret in synthetic.habits_of(0, number).secrets:
                said = (secret, secret[:1].upper() + secret[1:])
                assert sum(any(s in text for s in said) for text in texts) >= 2


def test_every_user_has_friends_places_and_a_pet_of_their_own():
    first, second = (synthetic.habits_of(0, number).rules for number in (0, 1))
    for name in ("friend", "spot", "pet"):
        assert not set(first[name]) & set(second[name])


def test_the_private_register_is_shared_by_users_and_foreign_to_the_public_text(users, public):
    """Runs of five words of one half of the users cover the other far better than public ones.

    Single words, and many short phrases, are public: the register is how they are put together.
    """
    texts = list(users.values())
    halves = [[t for records in texts[side::2] for t in records] for side in (0, 1)]
    of_public, of_half = (set(runs(source)) for source in (public, halves[0]))
    other = runs(halves[1])
    covered = [sum(run in known for run in other) / len(other) for known in (of_public, of_half)]
    assert covered[0] < 0.35
    assert covered[1] > 2 * covered[0]


def runs(texts: list[str]) -> list[tuple[str, ...]]:
    return [
        run
        for said in map(words, texts)
        for run in zip(*(said[i:] for i in range(5)), strict=False)
    ]


def test_the_corpus_holds_the_generated_users_and_is_cached(tmp_path):
    corpus = loading.generate(synthetic.POPULATION, 0, 300, Words(), tmp_path)
    assert len(corpus.train) + len(corpus.heldout) == 300
    assert 10 <= len(corpus.heldout) <= 55
    lengths = sorted(
        len(record)
        for people in (corpus.train, corpus.heldout)
        for user in range(len(people))
        for record in people.records(user)
    )
    expected = sorted(
        len(text.split()) + 1 for _, texts in synthetic.private_users(0, 300) for text in texts
    )
    assert lengths == expected
    again = loading.generate(synthetic.POPULATION, 0, 300, Words(), tmp_path)
    assert (again.train.tokens == corpus.train.tokens).all()
    assert len(list((tmp_path / "corpora").iterdir())) == 1


def test_secret_words_never_repeat_and_seeds_differ():
    secret_words = [synthetic.habits_of(0, number).secret_words for number in range(3000)]
    assert len({word for pair in secret_words for word in pair}) == 6000
    assert synthetic.habits_of(1, 0).secret_words != secret_words[0]


def test_grammar_draws_every_alternative_evenly_and_fills_nested_slots():
    rules = grammar.compiled({"a": "x {b} | {^b}.", "b": "one | two | three | four"})
    chance = random.Random(0)
    seen = collections.Counter(grammar.expand(rules, "a", chance) for _ in range(8000))
    assert set(seen) == {f"x {n}" for n in ("one", "two", "three", "four")} | {
        f"{n}." for n in ("One", "Two", "Three", "Four")
    }
    assert all(abs(count - 1000) < 4 * (8000 * 7 / 64) ** 0.5 for count in seen.values())
