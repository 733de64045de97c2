"""Labelled records: from a file to a given text and one learned class; records as own users."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import transformers

from helpers import small_world
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import loading, masking
from userdp.sim.data.sources.registry import SOURCES

ROWS = [
    {"who": "ada", "said": "the cat sat", "mood": 1},
    {"who": "bob", "said": "my old dog", "mood": 0},
    {"who": "ada", "said": "the mat", "mood": 0},
]
BINARY = {"text": "said", "label": "mood", "classes": ("0", "1")}


def small_tokenizer(framed: bool = False):
    """The small world's; ``framed``: with RoBERTa's special tokens around and between texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world.model())
    if framed:
        tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
        tokenizer.backend_tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
            ("</s>", tokenizer.eos_token_id),
            ("<s>", tokenizer.bos_token_id),
            add_prefix_space=False,
        )
    return tokenizer


def written(folder: Path, rows=ROWS) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(path: Path, tokenizer=None, *, seq_len=16, columns=BINARY, user="who", **changes):
    values = {"format": "jsonl", "path": str(path), "holdout": 0.0, **changes}
    named = loading.Columns(user=user, **columns)
    settings = loading.CorpusSettings(columns=named, max_tokens=seq_len, **values)
    encode = TokenizerEncode(tokenizer or small_tokenizer())
    return loading.load(SOURCES.find(settings.format), settings, encode, path.parent / "cache")


def records(population):
    return [r for user in range(len(population)) for r in population.records(user)]


def texts_and_classes(population, tokenizer):
    return [(tokenizer.decode(~r[:-1]), int(r[-1])) for r in records(population)]


def test_a_record_is_a_given_text_and_one_learned_class(tmp_path):
    tokenizer = small_tokenizer()
    corpus = loaded(written(tmp_path), tokenizer)
    assert texts_and_classes(corpus.train, tokenizer) == [
        ("the cat sat", 1),
        ("the mat", 0),
        ("my old dog", 0),
    ]
    for record in records(corpus.train):
        assert masking.predicted(record) == 1
        assert masking.learned(record).nonzero()[0].tolist() == [len(record) - 2]


@pytest.mark.parametrize("framed", [False, True])
def test_the_ids_are_those_of_the_tokenizers_own_call(tmp_path, framed):
    rows = [{**ROWS[0], "so": "öld town ☃"}, {**ROWS[1], "so": "a mat and the dog saw my cat"}]
    tokenizer = small_tokenizer(framed)
    single = loaded(written(tmp_path, rows), tokenizer, seq_len=50)
    paired = loaded(
        written(tmp_path, rows), tokenizer, seq_len=50, columns={**BINARY, "pair": "so"}
    )
    for row, one, two in zip(rows, records(single.train), records(paired.train), strict=True):
        assert masking.tokens(one).tolist() == [*tokenizer(row["said"])["input_ids"], row["mood"]]
        wanted = tokenizer(row["said"], row["so"])["input_ids"]
        assert masking.tokens(two).tolist() == [*wanted, row["mood"]]
    closings = [(~r[:-1]).tolist().count(tokenizer.eos_token_id) for r in records(paired.train)]
    assert closings == ([3, 3] if framed else [0, 0])


@pytest.mark.parametrize("seq_len", [6, 9])
def test_the_text_is_cut_to_make_room_for_the_class(tmp_path, seq_len):
    tokenizer = small_tokenizer(framed=True)
    long = {"who": "cy", "said": "the cat sat on a mat and saw " * 3, "mood": 1, "so": "my dog"}
    path, columns = written(tmp_path, [long]), {**BINARY, "pair": "so"}
    [record] = records(loaded(path, tokenizer, seq_len=seq_len, columns=columns).train)
    cut = tokenizer(long["said"], long["so"], truncation=True, max_length=seq_len - 1)["input_ids"]
    assert masking.tokens(record).tolist() == [*cut, 1]
    assert len(record) == seq_len
    assert (cut[0], cut[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_special_token_that_a_user_spells_is_ordinary_characters(tmp_path):
    tokenizer = small_tokenizer(framed=True)
    path = written(tmp_path, [{"who": "cy", "said": "the </s> cat <s>", "mood": 1}])
    [record] = records(loaded(path, tokenizer).train)
    inner = masking.tokens(record)[1:-2].tolist()
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(inner)


@pytest.mark.parametrize(
    ("classes", "values"),
    [
        (("no", "yes"), ["yes", "no", "no"]),
        (("0", "1"), ["1", "0", "0"]),
        (("-1", "1"), [1, -1, -1]),
        (("no", "may be", "yes"), ["yes", "no", "may be"]),
    ],
)
def test_classes_are_numbered_as_they_are_listed(tmp_path, classes, values):
    rows = [{**row, "mood": value} for row, value in zip(ROWS, values, strict=True)]
    corpus = loaded(written(tmp_path, rows), columns={**BINARY, "classes": classes})
    wanted = [classes.index(str(values[i])) for i in (0, 2, 1)]  # grouped by user
    assert [int(record[-1]) for record in records(corpus.train)] == wanted


BAD = [
    ({"mood": 2}, "label is none of data.classes"),
    ({"mood": -1}, "label is none of data.classes"),
    ({"mood": "MARKER"}, "label is none of data.classes"),
    ({"mood": None}, "missing label"),
    ({"mood": ""}, "missing label"),
    ({"mood": 1.0}, "label is neither text nor an integer"),
    ({"mood": True}, "label is neither text nor an integer"),
    ({"mood": ["MARKER"]}, "label is neither text nor an integer"),
    ({"so": None}, "empty second text"),
    ({"so": " "}, "empty second text"),
    ({"so": 3}, "second text is not text"),
    ({"said": ""}, "empty text"),
]


def test_bad_labels_and_second_texts_are_dropped_and_counted(tmp_path):
    good = {**ROWS[0], "so": "a dog"}
    path = written(tmp_path, [good, *({**good, **change} for change, _ in BAD)])
    corpus = loaded(path, columns={**BINARY, "pair": "so"})
    assert corpus.dropped == dict(collections.Counter(reason for _, reason in BAD))
    assert len(records(corpus.train)) == 1


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_strict_names_the_line_and_quotes_nothing(tmp_path, change, reason):
    good = {**ROWS[0], "so": "a dog"}
    path = written(tmp_path, [good, {**good, **change}])
    with pytest.raises(ValueError, match="line 2") as caught:
        loaded(path, columns={**BINARY, "pair": "so"}, strict=True)
    assert reason in str(caught.value)
    assert "MARKER" not in str(caught.value)


def test_csv_and_parquet_hold_the_same_labelled_records(tmp_path):
    (tmp_path / "a.csv").write_text(
        "who,said,mood\n" + "".join(f"{r['who']},{r['said']},{r['mood']}\n" for r in ROWS)
    )
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    wanted = records(loaded(written(tmp_path)).train)
    for name in ("csv", "parquet"):
        got = records(loaded(tmp_path / f"a.{name}", format=name).train)
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("change", ["label", "classes", "pair", "seq_len", "user"])
def test_whatever_changes_labelled_records_changes_the_cache_key(tmp_path, change):
    rows = [{**row, "so": row["said"], "other": 1 - row["mood"]} for row in ROWS]
    path = written(tmp_path, rows)
    loaded(path)
    columns = {
        "label": {**BINARY, "label": "other"},
        "classes": {**BINARY, "classes": ("1", "0")},
        "pair": {**BINARY, "pair": "so"},
    }.get(change, BINARY)
    options = {"seq_len": {"seq_len": 15}, "user": {"user": None}}.get(change, {})
    loaded(path, columns=columns, **options)
    loaded(path)
    assert len(list((tmp_path / "cache" / "corpora").iterdir())) == 2


def test_unlabelled_records_are_cached_for_every_length():
    columns = loading.Columns(user="who", text="said")
    with pytest.raises(ValueError, match="labelled"):
        loading.CorpusSettings(format="jsonl", path="a", columns=columns, max_tokens=9)


def keyed(population):
    """The records by the key of their user."""
    return {
        int(key): [r.tolist() for r in population.records(slot)]
        for slot, key in enumerate(population.user_keys)
    }


def test_without_a_user_column_every_record_is_a_user(tmp_path):
    corpus = loaded(written(tmp_path, [*ROWS, ROWS[0]]), user=None)
    assert np.diff(corpus.train.user_offsets).tolist() == [1, 1, 1, 1]
    assert len(set(corpus.train.user_keys)) == 4


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_taking_a_record_away_changes_no_other_records_key(tmp_path, gone):
    rows = [*ROWS, ROWS[0], {**ROWS[0], "mood": 0}]  # two equal records, one that differs in class
    whole = keyed(loaded(written(tmp_path, rows), user=None).train)
    rest = [row for number, row in enumerate(rows) if number != gone]
    without = keyed(loaded(written(tmp_path, rest), user=None).train)
    assert without.items() <= whole.items()
    assert len(whole) - len(without) == 1


def test_a_records_side_does_not_depend_on_others(tmp_path):
    rows = [{"said": f"cat {i}", "mood": i % 2} for i in range(300)]
    whole, part = (
        loaded(written(tmp_path, some), user=None, holdout=0.3) for some in (rows, rows[:100])
    )
    for name in ("train", "heldout"):
        assert keyed(getattr(part, name)).items() <= keyed(getattr(whole, name)).items()
    assert len(part.train) + len(part.heldout) == 100
    assert abs(len(whole.heldout) / 300 - 0.3) < 4 * (0.3 * 0.7 / 300) ** 0.5


def test_texts_without_labels_may_be_users_of_their_own_too(tmp_path):
    columns = loading.Columns(user=None, text="said")
    settings = loading.CorpusSettings(format="jsonl", path=str(written(tmp_path)), columns=columns)
    encode = TokenizerEncode(small_tokenizer())
    corpus = loading.load(SOURCES.find("jsonl"), settings, encode, tmp_path / "cache")
    assert len(corpus.train) + len(corpus.heldout) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({**BINARY, "prompt": "asked"}, r"data\.prompt='asked' with data\.label='mood'"),
        ({"chat": "talk", "label": "mood", "classes": ("0", "1")}, r"data\.chat='talk'"),
        ({"text": "said", "pair": "so"}, r"data\.text_pair='so'.*data\.label"),
        ({"text": "said", "classes": ("0", "1")}, r"data\.classes=0,1.*data\.label"),
        ({**BINARY, "classes": ()}, r"data\.classes=\[\].*public"),
        ({**BINARY, "classes": ("0",)}, r"data\.classes=\[0\].*two or more"),
        ({**BINARY, "classes": ("a", "b", "a")}, r"data\.classes=\[a, b, a\].*each once"),
    ],
)
def test_columns_that_do_not_fit_are_refused_in_one_line(columns, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        loading.Columns(user="who", **columns)
    assert "\n" not in str(caught.value)


def test_records_of_own_users_are_not_held_out_by_record(tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.user=None"):
        loaded(written(tmp_path), user=None, split="record")


def test_a_length_without_room_for_a_text_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"model\.seq_len=5.*4 special tokens"):
        loaded(
            written(tmp_path, [{**ROWS[0], "so": "dog"}]),
            small_tokenizer(framed=True),
            seq_len=5,
            columns={**BINARY, "pair": "so"},
        )
