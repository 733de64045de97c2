"""Tokenizing plain texts: lossless, closed by one end-of-text token, named by a fingerprint."""

from __future__ import annotations

import functools

import pytest
import transformers

from userdp.clients.models import embedded
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.data.synthetic import users


@functools.cache
def trained(texts):
    """A byte-level tokenizer trained on the first public texts."""
    recipe = embedded.Recipe(vocabulary=400, context=32)
    return embedded.train_tokenizer(users.public_text(0)[:texts], recipe)


@pytest.mark.parametrize(
    "text", ["pls call Zoper :)", "ünï ☃ \x00 \t 漢字", "“The tide,” said Ada."]
)
def test_decoding_returns_the_text(text):
    tokenizer = trained(60)
    ids = TokenizerEncode(tokenizer)([text])[0]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False) == text


def test_an_end_of_text_token_spelled_in_a_text_is_tokenized_as_characters():
    tokenizer = trained(60)
    ids = TokenizerEncode(tokenizer)([f"a{embedded.END}b", "", "c"])
    assert [record.count(tokenizer.eos_token_id) for record in ids] == [1, 1, 1]
    assert TokenizerEncode(tokenizer)([]) == []


def test_the_name_is_a_fingerprint_of_the_tokenizer(tmp_path):
    tokenizer = trained(60)
    tokenizer.save_pretrained(tmp_path)
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert TokenizerEncode(reloaded).name == TokenizerEncode(tokenizer).name
    assert TokenizerEncode(trained(30)).name != TokenizerEncode(tokenizer).name
    texts = users.public_text(0)[:60]
    assert TokenizerEncode(reloaded)(texts) == TokenizerEncode(tokenizer)(texts)
