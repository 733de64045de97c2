"""Files that are damaged, hostile or odd: one line that names file and line, or the right rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
import random
import subprocess
import sys
import zipfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import hostile_files
from helpers.corpora import COLUMNS, ROWS, by_user, load, texts
from helpers.hostile_files import contents
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.loading import BadDataError
from userdp.sim.data.records import Columns

NAMES = ["m\xfcller", "m\xf6ller", "jos\xe9", "jos\xe8"]  # four users, two if letters are replaced


def refused(path, folder, match, **settings):
    with pytest.raises((ConfigurationError, BadDataError), match=match) as caught:
        load(path, folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("seed", range(2))
def test_damaged_files_load_or_are_refused_in_one_line(tmp_path, seed):
    outcomes = Counter(hostile_files.tried(ROWS * 4, 12, seed, tmp_path))
    assert {kind for _, kind in outcomes} == {"success", "refused"}
    assert outcomes["parquet", "refused"] > 3


@pytest.mark.slow
@pytest.mark.trust
def test_many_damaged_files_load_or_are_refused_in_one_line(tmp_path):
    outcomes = Counter(hostile_files.tried(ROWS * 4, 500, 99, tmp_path))
    assert sum(outcomes.values()) == 500 * len(hostile_files.FORMATS)
    assert all(outcomes[ending, "refused"] > 50 for ending in hostile_files.FORMATS)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_text_that_is_not_utf_8_is_refused_with_its_line_and_merges_no_users(
    tmp_path, form, strict, encoding
):
    rows = [("ada", "plain"), *((name, "s") for name in NAMES)]
    text = contents(rows, "csv").decode()
    if form == "jsonl":
        text = "".join(
            json.dumps({"who": u, "said": t}, ensure_ascii=False) + "\n" for u, t in rows
        )
    path = tmp_path / f"a.{form}"
    path.write_bytes(text.encode(encoding))
    line = {"latin-1": {"jsonl": 2, "csv": 3}[form], "utf-16": 1}.get(encoding)
    match = r"a\.(jsonl|csv)" if line is None else f"line {line}: not UTF-8"
    told = refused(path, tmp_path, match, format=form, strict=strict)
    assert "ller" not in told
    path.write_bytes(text.encode("utf-8-sig"))
    assert texts(load(path, tmp_path, format=form, strict=True).train) == by_user(rows)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_replacement_character_in_a_text_is_a_character(tmp_path, form):
    path = tmp_path / f"a.{form}"
    path.write_bytes(contents([("ada", "\ufffd x")], form))
    assert texts(load(path, tmp_path, format=form).train) == by_user([("ada", "\ufffd x")])


ALPHABET = [
    "a",
    "b",
    " ",
    ",",
    '"',
    "\n",
    "\r",
    "\r\n",
    "\u2028",
    "\x00",
    "\x85",
    "é",
    "漢",
    "😀",
    "\\",
]


@pytest.mark.parametrize("seed", range(4))
def test_random_texts_are_the_same_in_every_format(tmp_path, seed):
    source = random.Random(seed)
    letters = [letter for letter in ALPHABET if letter != "\x00"]
    users = ["".join(source.choices(letters, k=3)) + "u" for _ in range(5)]
    rows = [
        (source.choice(users), "".join(source.choices(ALPHABET, k=source.randint(1, 30))) + "x")
        for _ in range(60)
    ]
    for ending in hostile_files.FORMATS:
        path = tmp_path / f"{seed}.{ending}"
        path.write_bytes(contents(rows, ending))
        form = ending.removesuffix(".gz")
        assert texts(load(path, tmp_path, format=form, strict=True).train) == by_user(rows)


def test_compression_is_told_by_the_first_bytes_and_damage_is_one_line(tmp_path):
    plain = contents(ROWS, "jsonl")
    packed = {"gz": gzip.compress(plain), "bz2": bz2.compress(plain), "xz": lzma.compress(plain)}
    packed["zst"] = pa.compress(plain, "zstd", asbytes=True)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mail.jsonl", plain)
    packed["zip"] = (tmp_path / "a.zip").read_bytes()
    for name, content in packed.items():
        path = tmp_path / f"{name}.any"
        path.write_bytes(content)
        assert texts(load(path, tmp_path).train) == by_user(ROWS), name
        path.write_bytes(content[: len(content) - 9])
        refused(path, tmp_path, rf"{name}\.any.* a damaged or unfinished compressed file")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("more.jsonl", plain)
    refused(tmp_path / "a.zip", tmp_path, "an archive of 2 files; unpack it")


def test_several_compressed_parts_in_one_file_are_all_read(tmp_path):
    for name, compress in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        path = tmp_path / f"a.jsonl.{name}"
        path.write_bytes(b"".join(compress(contents([row], "jsonl")) for row in ROWS))
        assert texts(load(path, tmp_path).train) == by_user(ROWS)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_lines_end_as_systems_end_them_and_are_counted_so(tmp_path, form, end):
    lines = contents([("ada", "x"), ("bob", "y")], form).decode().splitlines()
    path = tmp_path / f"a.{form}"
    path.write_bytes(end.join([*lines, "oops"]).encode())
    corpus = load(path, tmp_path, format=form)
    assert texts(corpus.train) == by_user([("ada", "x"), ("bob", "y")])
    assert corpus.dropped == {"broken line": 1}
    refused(path, tmp_path, f"line {len(lines) + 1}: broken line", format=form, strict=True)


HOSTILE = {
    "deep nesting": b"[" * 100_000,
    "a deep value": b'{"who": "a", "said": ' + b"[" * 100_000,
    "a huge integer": b'{"who": ' + b"9" * 10_000 + b', "said": "x"}',
    "not a number": b'{"who": NaN, "said": "x"}',
    "infinite": b'{"who": 1e999, "said": "x"}',
    "half a pair": b'{"who": "\\ud800", "said": "x"}',
    "a list": b'{"who": "a", "said": ["x"]}',
    "no text": b'{"who": "a"}',
    "nul bytes": b'{"who": "a", "said": "\x00"}',
    "a byte order mark": b'\xef\xbb\xbf{"who": "a", "said": "x"}',
    "twice": b'{"who": "a", "who": "b", "said": "x"}',
    "twice in another spelling": b'{"who": "a", "wh\\u006f": "b", "said": "x"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_costs_one_record_and_is_named_under_strict(tmp_path, name):
    good = contents([("ada", "fine")], "jsonl")
    path = tmp_path / "a.jsonl"
    path.write_bytes(good + HOSTILE[name] + b"\n" + good)
    corpus = load(path, tmp_path)
    assert texts(corpus.train) == by_user([("ada", "fine")] * 2)
    assert sum(count for reason, count in corpus.dropped.items() if "left" not in reason) == 1
    refused(path, tmp_path, r"a\.jsonl, line 2: ", strict=True)


def test_keys_that_occur_twice_elsewhere_do_no_harm_but_strict_refuses_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"who": "ada", "said": "x", "more": {"a": 1, "a": 2}, "b": 1, "b": 2}\n')
    corpus = load(path, tmp_path)
    assert (texts(corpus.train), corpus.dropped) == (by_user([("ada", "x")]), {})
    refused(path, tmp_path, "line 1: a key occurs twice", strict=True)


def test_a_key_that_occurs_twice_inside_a_message_breaks_the_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"who": "a", "talk": [{"role": "user", "role": "assistant", "content": "x"}]}')
    columns = Columns(user="who", chat="talk")
    refused(path, tmp_path, "dropped because of: a key occurs twice", columns=columns)


def test_types_of_columns_that_nobody_asked_for_do_no_harm(tmp_path):
    lines = [json.dumps({"who": "a", "said": "x", "z": z}) for z in (1, "t", [1], {}, None)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert texts(load(tmp_path / "a.jsonl", tmp_path).train) == by_user([("a", "x")] * 5)
    strange = {
        "d": pa.array([b"\xff"], pa.binary()),
        "e": pa.DictionaryArray.from_arrays([0], [pa.scalar("q").as_py()]),
        "f": pa.array([None], pa.null()),
        "g": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "h": pa.array([10**30], pa.decimal128(38)),
        "who.x": pa.array([1]),
        "s": pa.array([{"who": 1, "said": [2]}]),
    }
    pq.write_table(pa.table({**strange, "who": ["a"], "said": ["x"]}), tmp_path / "a.parquet")
    loaded = load(tmp_path / "a.parquet", tmp_path, format="parquet", strict=True)
    assert texts(loaded.train) == by_user([("a", "x")])


FOOTERS = """
import pathlib, sys
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources import parquet

path, columns = pathlib.Path(sys.argv[1]), {"data.user": "who", "data.text": "said"}
content = path.read_bytes()
length = int.from_bytes(content[-8:-4], "little")
for place in range(len(content) - 8 - length, len(content)):
    for bit in (place % 8, (place + 3) % 8):
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        )
        try:
            list(parquet.SOURCE.read(path, columns))
        except ConfigurationError:
            pass
"""


def test_a_parquet_footer_with_any_byte_changed_never_ends_the_process(tmp_path):
    """Arrow aborts on some damaged metadata, where no error can be caught: a process of its own."""
    path = tmp_path / "a.parquet"
    path.write_bytes(contents(ROWS, "parquet"))
    command = [sys.executable, "-c", FOOTERS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]


def test_parquet_with_text_that_is_not_utf_8_names_the_row_group(tmp_path):
    bad = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"who": ["a", "b"], "said": bad}), tmp_path / "a.parquet")
    refused(
        tmp_path / "a.parquet", tmp_path, r"row group 0, after row 0: .*UTF-8", format="parquet"
    )


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_empty_partitions_are_no_rows(tmp_path, form):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.{form}").write_bytes(contents(ROWS, form))
    (tmp_path / "in" / f"b.{form}").write_bytes(contents([], form))
    if form != "parquet":
        (tmp_path / "in" / f"c.{form}").write_bytes(b"")
        (tmp_path / "in" / f"d.{form}").write_bytes(b"\n\n")
    assert texts(load(tmp_path / "in", tmp_path, format=form).train) == by_user(ROWS)


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("who,said,said\na,x,y\n")
    refused(tmp_path / "a.csv", tmp_path, "two columns are named 'said'", format="csv")
    (tmp_path / "b.csv").write_text("who,said,,\na,x,,\n")  # a spreadsheet's empty columns
    assert len(load(tmp_path / "b.csv", tmp_path, format="csv").train) == 1
    arrays = [pa.array(["a"]), pa.array(["x"]), pa.array(["y"])]
    table = pa.Table.from_arrays(arrays, ["who", "said", "said"])
    pq.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", tmp_path, "two columns are named 'said'", format="parquet")


@pytest.mark.parametrize(
    ("header", "told"),
    [("who, said", "' said', with blanks"), ("who;said", "holds ';'"), ("who\tsaid", r"separate")],
)
def test_a_header_that_is_odd_is_told_so(tmp_path, header, told):
    (tmp_path / "a.csv").write_text(f"{header}\na,x\n")
    refused(tmp_path / "a.csv", tmp_path, told, format="csv")


def test_a_quote_that_does_not_close_is_refused_and_not_one_broken_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('who,said\nada,x\nbob,"y\n' + "cy,z\n" * 50)
    for strict in (False, True):
        refused(path, tmp_path, "line 3: a quote opens", format="csv", strict=strict)
    path.write_text('who,said\nada,x\nbob,"y\ncy,z\ndo,"w"\nada,z\n')
    corpus = load(path, tmp_path, format="csv")
    assert corpus.dropped == {"broken line": 3}  # lines 3 to 5: all that the quote took in
    assert texts(corpus.train) == by_user([("ada", "x"), ("ada", "z")])


def test_a_csv_field_may_be_longer_than_the_default_limit(tmp_path):
    limit, long = csv.field_size_limit(), "word " * 50_000
    (tmp_path / "a.csv").write_bytes(contents([("ada", long)], "csv"))
    assert texts(load(tmp_path / "a.csv", tmp_path, format="csv").train) == by_user([("ada", long)])
    assert csv.field_size_limit() == limit


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("userdp.sim.data.sources.text_lines.LONGEST", 100)
    (tmp_path / "a.jsonl").write_bytes(contents(ROWS, "jsonl") + b"{" * 101)
    refused(tmp_path / "a.jsonl", tmp_path, r"line 7: more than 100 characters")
    (tmp_path / "a.csv").write_bytes(contents(ROWS, "csv") + b'q,"' + b"a\n" * 101)
    refused(tmp_path / "a.csv", tmp_path, r"line 9: a quote opens", format="csv")


def test_files_that_cannot_be_read_are_named_with_the_reason(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    os.symlink(tmp_path / "gone", path)
    refused(path, tmp_path, "not there|no such file")
    path.unlink()
    os.mkfifo(path)
    refused(path, tmp_path, "not a regular file")
    refused(tmp_path / ("x" * 5000), tmp_path, "no such file")
    for form in ("jsonl", "csv", "parquet"):
        whole = tmp_path / f"b.{form}"
        whole.write_bytes(contents(ROWS, form))
        with monkeypatch.context() as patch:
            patch.setattr("userdp.sim.common.file_hash.of", lambda file, _: file.unlink() or "x")
            with pytest.raises(ConfigurationError, match=rf"b\.{form}"):
                load(whole, tmp_path, format=form, columns=COLUMNS)


def test_a_file_without_permission_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(contents(ROWS, "jsonl"))

    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", denied)
    refused(path, tmp_path, r"a\.jsonl: cannot be read: Permission denied")
