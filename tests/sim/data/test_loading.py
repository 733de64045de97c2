"""Loading of corpora: the same records from every source, splits, bad data, the cache."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import datasets as hf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.corpora import ROWS, Bytes, by_user, load, texts, write_jsonl
from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import loading
from userdp.sim.data.corpus import Corpus


def everything(corpus: Corpus) -> dict[int, list[str]]:
    return {**texts(corpus.heldout), **texts(corpus.train)}


def test_records_come_back_grouped_by_user_in_file_order(tmp_path):
    corpus = load(write_jsonl(tmp_path / "a.jsonl", ROWS), tmp_path)
    assert texts(corpus.train) == by_user(ROWS)
    assert isinstance(corpus.train.tokens.base, np.memmap)
    assert len(corpus.heldout) == 0
    assert corpus.dropped == {}


def test_jsonl_csv_parquet_and_hub_hold_the_same_population(tmp_path, monkeypatch):
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("who", "said"), *ROWS])
    table = pa.table({"said": [t for _, t in ROWS], "other": range(6), "who": [u for u, _ in ROWS]})
    folder = tmp_path / "hub"
    folder.mkdir()
    for file in (tmp_path / "a.parquet", folder / "train.parquet"):
        pq.write_table(table, file)
    loaded = [
        load(tmp_path / f"a.{name}", tmp_path, format=name, split="record", holdout=0.4)
        for name in ("jsonl", "csv", "parquet")
    ]
    loaded.append(load(folder, tmp_path, format="hub", split="record", holdout=0.4))
    first = loaded[0]
    for other in loaded[1:]:
        for name in ("train", "heldout"):
            for field in vars(first.train):
                np.testing.assert_array_equal(
                    getattr(getattr(other, name), field), getattr(getattr(first, name), field)
                )


def test_integer_ids_equal_their_spelling(tmp_path):
    numbers = write_jsonl(tmp_path / "n.jsonl", [(7, "a"), (-12, "b")])
    assert texts(load(numbers, tmp_path).train) == by_user([("7", "a"), ("-12", "b")])


def test_the_cache_gives_the_same_arrays_without_encoding_again(tmp_path):
    path, encode = write_jsonl(tmp_path / "a.jsonl", ROWS), Bytes()
    first = load(path, tmp_path / "cache", encode)
    second = load(path, tmp_path / "cache", encode)
    assert encode.texts == len(ROWS)
    assert everything(first) == everything(second)
    renamed = path.rename(tmp_path / "b.jsonl")  # the content is what counts
    assert everything(load(renamed, tmp_path / "cache", encode)) == everything(first)
    assert encode.texts == len(ROWS)


@pytest.mark.parametrize("change", ["file", "tokenizer", "columns", "holdout", "seed", "strict"])
def test_whatever_changes_the_result_changes_the_key(tmp_path, change):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"who": u, "said": t, "o": u}) + "\n" for u, t in ROWS))
    load(path, tmp_path)
    encode = Bytes("other" if change == "tokenizer" else "bytes")
    settings = {
        "columns": {"columns": loading.Columns(user="o", text="said")},
        "holdout": {"holdout": 0.01},
        "seed": {"seed": 1},
        "strict": {"strict": True},
    }.get(change, {})
    if change == "file":
        path.write_text(path.read_text().replace("again", "anew"))
    load(path, tmp_path, encode, **settings)
    assert encode.texts == len(ROWS)


def test_an_interrupted_load_leaves_nothing_in_the_cache(tmp_path):
    class Failing(Bytes):
        def __call__(self, texts):
            raise KeyboardInterrupt

    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(KeyboardInterrupt):
        load(path, tmp_path / "cache", Failing())
    assert list((tmp_path / "cache" / "corpora").iterdir()) == []


BAD = [
    (b'{"who": "ada", "said": "fine"}', None),
    (b'{"who": "ada", "said": "MARKER', "broken line"),
    (b'["MARKER"]', "broken line"),
    (b'{"who": "eve", "said": "  "}', "empty text"),
    (b'{"who": "eve", "said": null, "x": "MARKER"}', "empty text"),
    (b'{"who": "eve", "said": ["MARKER"]}', "text is not text"),
    (b'{"who": "ada", "said": "MARKER \\ud800"}', "text is not valid Unicode"),
    (b'{"said": "MARKER"}', "missing user"),
    (b'{"who": "", "said": "MARKER"}', "missing user"),
    (b'{"who": 1.5, "said": "MARKER"}', "user is neither text nor an integer"),
    (b'{"who": "ada", "who": "eve", "said": "MARKER"}', "a key occurs twice"),
    (b"", None),
]


def test_bad_data_is_dropped_and_counted_by_reason(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(line for line, _ in BAD))
    corpus = load(path, tmp_path)
    reasons = [reason for _, reason in BAD if reason]
    expected = {reason: reasons.count(reason) for reason in reasons}
    assert corpus.dropped == {**expected, "user left without records": 1}
    assert texts(corpus.train) == by_user([("ada", "fine")])


@pytest.mark.parametrize("number", [n for n, (_, reason) in enumerate(BAD) if reason])
def test_strict_names_the_line_and_quotes_nothing(tmp_path, number):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join([BAD[0][0], b"", BAD[number][0], BAD[0][0]]))
    with pytest.raises(ValueError, match="line 3") as caught:
        load(path, tmp_path, strict=True)
    assert BAD[number][1] in str(caught.value)
    assert "MARKER" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not list((tmp_path / "corpora").iterdir())


def many(people: int) -> list[tuple[str, str]]:
    return [(f"u{n}", f"text {n} {i}") for n in range(people) for i in range(n % 6 + 1)]


@pytest.mark.parametrize("split", ["user", "record"])
def test_a_users_side_never_depends_on_other_users(tmp_path, split):
    rows = many(200)
    both = [
        load(write_jsonl(tmp_path / f"{i}.jsonl", remaining), tmp_path, split=split, holdout=0.3)
        for i, remaining in enumerate([rows, [row for row in rows if row[0] not in ("u5", "u17")]])
    ]
    gone = set(by_user([("u5", ""), ("u17", "")]))
    for name in ("train", "heldout"):
        with_them, without = (texts(getattr(corpus, name)) for corpus in both)
        assert {key: t for key, t in with_them.items() if key not in gone} == without


def test_split_by_user_is_disjoint_and_holds_out_the_fraction(tmp_path):
    corpus = load(write_jsonl(tmp_path / "a.jsonl", many(2000)), tmp_path, holdout=0.3)
    assert not set(corpus.train.user_keys) & set(corpus.heldout.user_keys)
    assert everything(corpus) == by_user(many(2000))
    share, deviation = len(corpus.heldout) / 2000, (0.3 * 0.7 / 2000) ** 0.5
    assert abs(share - 0.3) < 4 * deviation
    assert abs(share - 0.2) > 4 * deviation < abs(share - 0.45)


def test_split_by_record_keeps_every_users_first_record_for_training(tmp_path):
    corpus = load(
        write_jsonl(tmp_path / "a.jsonl", many(600)), tmp_path, split="record", holdout=0.3
    )
    train, heldout = texts(corpus.train), texts(corpus.heldout)
    whole = by_user(many(600))
    assert len(train) == 600
    assert all(train[key][0] == records[0] for key, records in whole.items())
    for key, records in whole.items():
        assert sorted(train[key] + heldout.get(key, [])) == sorted(records)
    rest = sum(len(records) - 1 for records in whole.values())
    share, deviation = sum(map(len, heldout.values())) / rest, (0.3 * 0.7 / rest) ** 0.5
    assert abs(share - 0.3) < 4 * deviation
    assert abs(share - 0.2) > 4 * deviation < abs(share - 0.45)


def test_split_by_column_follows_the_column_and_refuses_other_values(tmp_path):
    path = tmp_path / "a.jsonl"
    columns = loading.Columns(user="who", text="said", split="part")
    parts = ["train", "test", "validation", "train"]
    rows = [{"who": "ab"[i % 2], "said": f"t{i}", "part": part} for i, part in enumerate(parts)]
    path.write_text("\n".join(map(json.dumps, rows)))
    corpus = load(path, tmp_path, columns=columns, split="column")
    assert texts(corpus.train) == by_user([("a", "t0"), ("b", "t3")])
    assert texts(corpus.heldout) == by_user([("b", "t1"), ("a", "t2")])
    path.write_text(json.dumps({**rows[0], "part": "dev" + 90 * "x"}))
    with pytest.raises(ConfigurationError, match=r"part.*line 1 has another value") as error:
        load(path, tmp_path, columns=columns, split="column")
    assert "dev" not in str(error.value)  # a value of a record, which no message may quote


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "no/such.jsonl"}, r"data\.path=no/such\.jsonl: no such file"),
        ({"format": "xml"}, r"data\.format=xml: choose one of .*jsonl"),
        ({"split": "users"}, r"data\.split='users'"),
        ({"split": "column"}, r"data\.split_column=None"),
        ({"holdout": 1.0}, r"data\.holdout=1\.0"),
        ({"columns": loading.Columns(user="id", text="said")}, r"data\.user='id'.*who, said"),
        ({"columns": loading.Columns(user="who", text="t")}, r"data\.text='t'.*who, said"),
        ({"format": "parquet"}, r"data\.format='parquet'.*not a parquet file"),
        ({"format": "csv"}, r"data\.user='who'.*no column names; is data\.format right"),
    ],
)
def test_a_wrong_configuration_is_one_line_with_field_value_and_mend(tmp_path, changes, message):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(folder=tmp_path, **{"path": path, **changes})
    assert "\n" not in str(caught.value)
    assert "one, two" not in str(caught.value)


def test_cache_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("USERDP_CACHE", "/own")
    assert cache.cache_root() == Path("/own")
    monkeypatch.delenv("USERDP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert cache.cache_root() == Path("/shared/userdp")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root() == Path.home() / ".cache" / "userdp"


SHARED = Path(os.environ.get("USERDP_SHARED", Path(__file__).parents[4] / "shared")) / "data"


@pytest.mark.parametrize(("name", "train", "test"), [("enron_senders", 13355, 1349)])
def test_real_mail_by_its_own_split(tmp_path, name, train, test):
    path = SHARED / name / "data.jsonl"
    if not path.exists():
        pytest.skip("needs the shared data")
    columns = loading.Columns(user="user_id", text="text", split="split")
    corpus = load(path, tmp_path, columns=columns, split="column", strict=True)
    assert np.diff(corpus.train.user_offsets).sum() == train
    assert np.diff(corpus.heldout.user_offsets).sum() == test
