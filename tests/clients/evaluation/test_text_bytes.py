"""The bytes of predicted text are those of the text itself, for every kind of tokenizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tokenizers
import transformers

from helpers import small_world
from userdp.clients.evaluation import text_bytes
from userdp.sim.data import masking

TEXTS = ["the cat sat on a mat", "naïve café, 5 €", "ends with 日本", "  two  spaces ", "a"]


def byte_level():
    return transformers.AutoTokenizer.from_pretrained(small_world.model())


def words():
    """A tokenizer whose tokens stand for a word, with the space before it as a sign of its own."""
    model = tokenizers.models.Unigram(
        [("<unk>", 0.0), *((piece, -1.0) for piece in ("▁the", "▁cat", "▁sat", "▁", *"acehst"))],
        unk_id=0,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def ids(tokenizer, text):
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("text", TEXTS)
def test_all_tokens_behind_the_first_are_counted(text):
    tokenizer = byte_level()
    record = ids(tokenizer, text)
    first = len(tokenizer.decode(record[:1]).encode())
    whole = len(text.encode())
    got = text_bytes.predicted(tokenizer, [record])
    if "\ufffd" in tokenizer.decode(record[:1]):  # begins within a character
        assert abs(got - (whole - 1)) <= 2
    else:
        assert got == whole - first


def test_a_space_that_belongs_to_a_word_is_counted():
    tokenizer = words()
    record = ids(tokenizer, "the cat sat the")
    assert len(record) == 4
    assert text_bytes.predicted(tokenizer, [record]) == len(" cat sat the")


def test_a_prompt_is_not_counted_and_what_follows_is():
    tokenizer = byte_level()
    prompt, answer = ids(tokenizer, "on a mat"), ids(tokenizer, " the dog ran")
    record = np.array([*masking.given(prompt), *answer])
    assert text_bytes.predicted(tokenizer, [record]) == len(" the dog ran")
    between = np.array([*record, *masking.given(prompt), *answer])
    assert text_bytes.predicted(tokenizer, [between]) == 2 * len(" the dog ran")


def test_special_tokens_stand_for_no_text():
    tokenizer = byte_level()
    record = ids(tokenizer, "the cat")
    closed = np.array([*record, tokenizer.eos_token_id])
    assert text_bytes.predicted(tokenizer, [closed]) == text_bytes.predicted(tokenizer, [record])


def test_records_add_up_and_none_is_none():
    tokenizer = byte_level()
    records = [ids(tokenizer, text) for text in TEXTS[:2]]
    one_by_one = sum(text_bytes.predicted(tokenizer, [record]) for record in records)
    assert text_bytes.predicted(tokenizer, records) == one_by_one
    assert text_bytes.predicted(tokenizer, []) == 0
    assert math.isclose(one_by_one, sum(len(t.encode()) for t in TEXTS[:2]), abs_tol=12)
