"""Prompts that are private records are found, and only those, against a plain search of texts."""

from __future__ import annotations

import itertools
import random

import pytest
import transformers

from helpers import small_world
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.data import masking
from userdp.sim.data.population import Population
from userdp.sim.inputs import private_prompts

TEXTS = [
    "Dear Ann, the keys are below the third flower pot.",
    "ok",
    "Please call\nme back before the end of May",
    "naïve café über straße 漢字 and so on and on",
    "the the the the the the the dog",
]


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(small_world.model())


@pytest.fixture(scope="module")
def records(tokenizer):
    encoded = TokenizerEncode(tokenizer)(TEXTS)
    return Population.of({"a": encoded[:2], "b": encoded[2:]})


def found(prompt, records, tokenizer):
    return private_prompts.first_private([prompt], records, tokenizer) is not None


@pytest.mark.parametrize("text", TEXTS)
def test_a_whole_record_is_private_however_short(text, records, tokenizer):
    assert found(text, records, tokenizer)


@pytest.mark.parametrize("text", ["", " ", "o", "ok then", "Dear Ann, the keys", "the the the dog"])
def test_few_words_that_are_no_record_are_anybodys(text, records, tokenizer):
    assert not found(text, records, tokenizer)


def test_words_in_a_row_are_private_exactly_where_a_record_holds_them(records, tokenizer):
    """Oracle: the text itself, over all runs of words of all records, and over wrong ones."""
    chance, right, wrong = random.Random(0), 0, 0
    for text in TEXTS:
        words = text.split(" ")
        for start, end in itertools.combinations(range(len(words) + 1), 2):
            prompt = " ".join(words[start:end])
            if len(prompt.split()) >= private_prompts.WORDS:
                assert found(prompt, records, tokenizer), prompt
                right += 1
                mixed = prompt.split(" ")
                chance.shuffle(mixed)
                other = " ".join(mixed)
                assert found(other, records, tokenizer) == any(other in one for one in TEXTS)
                wrong += other not in text
    assert right > 20
    assert wrong > 10


def test_the_first_private_prompt_is_named_by_its_number(records, tokenizer):
    prompts = ["Once upon a time there was", "", TEXTS[0], "ok"]
    assert private_prompts.first_private(prompts, records, tokenizer) == 3


def test_a_prompt_column_and_a_later_message_are_private_too(tokenizer):
    encode = TokenizerEncode(tokenizer)
    [record] = encode.prompted([("Write to Ann about the lost keys", " and so on")])
    assert record[0] < 0  # not learned: stored as complements
    short = masking.given(encode(["ok"])[0])
    assert found("ok", Population.of({"a": [short]}), tokenizer)
    records = Population.of({"a": [record]})
    assert found("Write to Ann about the lost keys", records, tokenizer)
    turns = masking.given(encode(["[user] where is the big red dog [assistant] at home"])[0])
    assert found("where is the big red dog", Population.of({"a": [turns]}), tokenizer)


def test_records_are_searched_over_the_borders_of_chunks(records, tokenizer, monkeypatch):
    for size in (1, 3, 7):
        monkeypatch.setattr(private_prompts, "_CHUNK", size)
        assert found("keys are below the third flower", records, tokenizer)
        assert not found("keys are below the fourth flower", records, tokenizer)


def test_a_server_without_records_finds_none(tokenizer):
    nobody = Population.of({})
    assert not found(TEXTS[0], nobody, tokenizer)
