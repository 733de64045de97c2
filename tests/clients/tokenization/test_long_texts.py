"""A text tokenized in pieces has the ids that the tokenizer gives it whole."""

from __future__ import annotations

import functools
import random
from array import array

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from userdp.clients.tokenization import chat_template, long_texts, tokenizer
from userdp.clients.tokenization.long_texts import LongTexts
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.data import masking
from userdp.sim.data.corpus import Labelled
from userdp.sim.data.population_writer import PopulationWriter

WORDS = [
    *[
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat,",
        "while",
        "Old",
        "dogs",
        "ran",
        "over",
        "green",
        "hills;",
        "nobody",
        "knew",
        "why",
        "it",
    ],
    *[
        "rained",
        "so",
        "much.",
        "She",
        "said:",
        '"well"',
        "-",
        "then",
        "left!",
        "naïve",
        "漢字",
        "☃",
        "😀",
        "123",
        "[END]",
        "<x>",
    ],
    *("\n", "\t"),
]
SIZE = 400  # characters of a piece here
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}[END]{% endfor %}"


def text(seed, words=1500):
    source = random.Random(seed)
    return " ".join(source.choices(WORDS, k=words))


KINDS = {
    "byte level": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), None),
    "byte level, prefixed": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=True), None),
    "word pieces": (
        models.WordPiece(unk_token="[UNK]"),
        pre_tokenizers.BertPreTokenizer(),
        normalizers.BertNormalizer(),
    ),
    "unigram": (models.Unigram(), pre_tokenizers.Metaspace(), normalizers.NFKC()),
    "metaspace at the front": (
        models.BPE(unk_token="[UNK]"),
        pre_tokenizers.Metaspace(prepend_scheme="first"),
        None,
    ),
    "no words": (
        models.BPE(unk_token="[UNK]", fuse_unk=True),
        None,
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ),
}
TRAINERS = {
    "BPE": trainers.BpeTrainer,
    "WordPiece": trainers.WordPieceTrainer,
    "Unigram": functools.partial(trainers.UnigramTrainer, unk_token="[UNK]"),
}


@functools.cache
def trained(kind, over_spaces=False):
    model, words, normalizer = KINDS[kind]
    result = tokenizers.Tokenizer(type(model)(**_options(model)))
    if normalizer is not None:
        result.normalizer = normalizer
    if words is not None:
        result.pre_tokenizer = words
    trainer = TRAINERS[type(model).__name__](vocab_size=400, special_tokens=["[UNK]", "[END]"])
    corpus = [text(number, 60) for number in range(100)]
    if not over_spaces:
        corpus = [word for line in corpus for word in line.split(" ")]
    result.train_from_iterator(corpus, trainer)
    result.post_processor = processors.TemplateProcessing(
        single="[UNK] $A [END]", special_tokens=[("[UNK]", 0), ("[END]", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=result,
        unk_token="[UNK]",
        eos_token="[END]",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _options(model):
    fused = {"fuse_unk": True} if getattr(model, "fuse_unk", False) else {}
    return {"unk_token": "[UNK]", **fused} if getattr(model, "unk_token", None) else {}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(long_texts, "_PIECE", SIZE)
    for module in (long_texts, tokenizer, chat_template):
        monkeypatch.setattr(module, "LONG", 2 * SIZE)


def whole(kind, content, **options):
    options = {"add_special_tokens": False, "split_special_tokens": True, **options}
    return trained(kind)(content, verbose=False, **options)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_in_pieces_are_those_of_the_whole_text(kind):
    for seed in range(5):
        content = text(seed)
        parts = LongTexts(trained(kind), split_special_tokens=True)
        pieces = list(parts.pieces(content))
        assert len(pieces) > 8
        assert all(content[piece.end] == " " for piece in pieces[:-1])  # none is cut by force
        assert max(piece.end - piece.start for piece in pieces) <= SIZE
        assert parts.ids(content).tolist() == whole(kind, content)


def test_a_place_that_some_token_goes_over_is_no_end_of_a_word():
    content, vocabulary = text(3), trained("no words", over_spaces=True).get_vocab()
    parts = LongTexts(trained("no words", over_spaces=True), split_special_tokens=True)
    crossed = {
        token[i - 1] for token in vocabulary for i in range(1, len(token)) if token[i] == "▁"
    }
    assert len(crossed) > 3
    places = [i for i, letter in enumerate(content) if letter == " " and i]
    ends = [place for place in places if parts._ends_word(content, place)]
    assert not crossed & {content[place - 1] for place in ends}
    plain = LongTexts(trained("no words"), split_special_tokens=True)
    assert len([place for place in places if plain._ends_word(content, place)]) > len(places) / 2


@pytest.mark.parametrize("content", ["a" * 1500, "\n" * 1500, " " * 1500, "漢" * 1500, "😀" * 800])
def test_a_text_without_words_ends_in_pieces_too(content, monkeypatch):
    monkeypatch.setattr(long_texts, "_TRIED", 9)
    for kind in KINDS:
        parts = LongTexts(trained(kind), split_special_tokens=True)
        pieces = list(parts.pieces(content))
        assert "".join(content[piece.start : piece.end] for piece in pieces) == content
        assert max(piece.end - piece.start for piece in pieces) <= SIZE
        cuts = len(pieces) - 1
        assert abs(len(parts.ids(content)) - len(whole(kind, content))) <= cuts


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_long_texts_are_those_of_short_ones(kind, monkeypatch):
    encode, contents = TokenizerEncode(trained(kind)), ["short one", text(1), "", text(2)]
    pairs = list(zip(contents, reversed(contents), strict=True))
    labelled = [Labelled(content, None, 1) for content in contents]
    found = encode(contents), encode.prompted(pairs), encode.labelled(labelled, 40)
    assert [isinstance(ids, array) for ids in found[0]] == [False, True, False, True]
    monkeypatch.setattr(tokenizer, "LONG", 10**9)
    expected = encode(contents), encode.prompted(pairs), encode.labelled(labelled, 40)
    for records, wanted in zip(found, expected, strict=True):
        assert [list(record) for record in records] == [list(record) for record in wanted]


def test_a_text_that_is_truncated_on_the_left_keeps_its_end(monkeypatch):
    encode, content = TokenizerEncode(trained("byte level")), text(4)
    monkeypatch.setattr(trained("byte level"), "truncation_side", "left")
    [found] = encode.labelled([Labelled(content, None, 0)], 30)
    monkeypatch.setattr(tokenizer, "LONG", 10**9)
    assert [found] == encode.labelled([Labelled(content, None, 0)], 30)


@pytest.mark.parametrize("kind", ["byte level", "no words", "metaspace at the front"])
def test_long_conversations_learn_the_same_tokens(kind, monkeypatch):
    source = random.Random(5)
    roles = ["user", "assistant"] * 4
    clean = [word for word in WORDS if word != "[END]"]
    messages = [
        {"role": role, "content": " ".join(source.choices(clean, k=source.randint(5, 300)))}
        for role in roles
    ]
    found = chat_template.encode(trained(kind), messages)
    monkeypatch.setattr(chat_template, "LONG", 10**9)
    expected = chat_template.encode(trained(kind), messages)
    assert isinstance(found, array)
    assert list(found) == list(expected)
    assert 0 < np.count_nonzero(masking.learned(np.array(expected))) < len(expected) - 1


def test_arrays_and_lists_of_tokens_are_written_alike(tmp_path):
    records = [[1, -2], [], [3], [4, 5, 6], [7]]
    mixed = [array("i", record) if len(record) != 1 else record for record in records]
    for name, given in (("lists", records), ("mixed", mixed)):
        writer = PopulationWriter(tmp_path / name)
        writer.extend(list("abcab"), given)
        writer.close()
    for file in (tmp_path / "lists").iterdir():
        assert file.read_bytes() == (tmp_path / "mixed" / file.name).read_bytes()
