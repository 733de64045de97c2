"""A source of one's own, outside userdp, by its dotted name and a file on Hydra's search path."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers

from helpers import small_world
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.inputs import corpus_loading

EXTENSION = Path(__file__).parents[3] / "extension"  # has the source `toys.sqlite`
ROWS = [(f"user {number % 9}", f"the cat sat on {number} mats") for number in range(60)]


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(EXTENSION)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))


def database(folder: Path, table: str = "mail") -> Path:
    path = folder / f"{table}.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE {table} (id INTEGER, sender TEXT, body TEXT)")
        rows = [(number, *row) for number, row in enumerate(ROWS)]
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows)
        connection.commit()
    return path


def composed(path: Path, *overrides: str):
    search_path = f"hydra.searchpath=[file://{EXTENSION / 'toys' / 'conf'}]"
    named = [search_path, "data=sqlite", f"data.path={path}"]
    return hydra_compose.settings([*named, *overrides])[0].data


def loaded(data):
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world.model())
    corpus_loading.check(data, 16)
    return corpus_loading.load(data, tokenizer, 16)


def test_it_gives_the_corpus_of_the_same_rows_in_jsonl(tmp_path):
    lines = tmp_path / "mail.jsonl"
    lines.write_text(
        "".join(json.dumps({"sender": user, "body": text}) + "\n" for user, text in ROWS)
    )
    data = composed(database(tmp_path), "data.split=record", "data.holdout=0.3")
    first = loaded(data)
    second = loaded(replace(data, format="jsonl", path=str(lines), options={}))
    assert np.diff(first.train.user_offsets).sum() > 30
    for one, other in ((first.train, second.train), (first.heldout, second.heldout)):
        for name in ("tokens", "record_offsets", "user_records", "user_offsets", "user_keys"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_its_options_are_part_of_the_cache_key_and_others_are_refused(tmp_path):
    path = database(tmp_path)
    data = composed(path, "data.holdout=0.3")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE copy AS SELECT * FROM mail")
        connection.commit()
    names = {loaded(replace(data, options={"table": table})).name for table in ("mail", "copy")}
    assert len(names) == 2
    with pytest.raises(ConfigurationError, match=r"data\.options\.tabel=copy: .*one of table"):
        composed(path, "+data.options.tabel=copy")


def test_a_column_that_it_lacks_is_named_with_those_it_has(tmp_path):
    data = composed(database(tmp_path), "data.text=subject")
    with pytest.raises(ConfigurationError, match=r"data\.text='subject'.*id, sender, body"):
        loaded(data)
