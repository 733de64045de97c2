"""ROUGE-L equals the definition in Lin's paper, computed by trying every subsequence."""

from __future__ import annotations

import importlib.util
import itertools
import random

import pytest

from userdp.clients.evaluation import rouge
from userdp.sim.common.errors import ConfigurationError


def longest_common(one: list[str], other: list[str]) -> int:
    """Oracle: the longest of all subsequences of one text that is one of the other."""
    for size in range(len(one), 0, -1):
        for some in itertools.combinations(one, size):
            rest = iter(other)
            if all(word in rest for word in some):  # each after the one before
                return size
    return 0


def f1(reference: str, text: str) -> float:
    words, written = reference.split(), text.split()
    common = longest_common(words, written)
    return 2 * common / (len(words) + len(written))


def test_a_pair_computed_by_hand():
    # the, brown, jumps: 3 of 5 words on either side, in this order
    assert rouge.mean_f1(["The quick brown fox jumps."], ["the brown dog jumps, over"]) == 0.6
    assert rouge.mean_f1(["a b c d", "a b"], ["d c b a", "a b"]) == (0.25 + 1) / 2
    assert rouge.mean_f1(["police killed the gunman"], ["the gunman kill police"]) == 0.5


def test_random_texts_score_as_by_all_subsequences():
    chance = random.Random(0)
    texts = [" ".join(chance.choices("abcdef", k=chance.randint(1, 9))) for _ in range(60)]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    wanted = [f1(*pair) for pair in pairs]
    assert len(set(wanted)) > 10
    for pair, value in zip(pairs, wanted, strict=True):
        assert rouge.mean_f1([pair[0]], [pair[1]]) == pytest.approx(value)
    assert rouge.mean_f1(*zip(*pairs, strict=True)) == pytest.approx(sum(wanted) / len(wanted))


@pytest.mark.parametrize("text", ["", "...", "日本語", "Да нет"])
def test_a_text_without_words_scores_nothing_even_against_itself(text):
    assert not rouge.has_words(text)
    assert rouge.mean_f1([text], [text]) == 0


@pytest.mark.parametrize("text", ["7", "Ünder", "日本 x"])
def test_a_text_with_a_word_scores_one_against_itself(text):
    assert rouge.has_words(text)
    assert rouge.mean_f1([text], [text]) == 1


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"rouge\.records: .*userdp\[rouge\]"):
        rouge.check()
