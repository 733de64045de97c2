"""Folders of ``save_to_disk``: the rows that were saved, by split, and a key of their contents."""

from __future__ import annotations

from pathlib import Path

import datasets as hf
import numpy as np
import pytest

from helpers.corpora import ROWS, by_user, load, texts, write_jsonl
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import SourceRequest
from userdp.sim.data.sources.registry import SOURCES


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def table(rows=ROWS) -> hf.Dataset:
    return hf.Dataset.from_list([{"who": who, "said": said, "n": 1} for who, said in rows])


def test_a_saved_table_holds_the_population_of_the_same_rows_in_jsonl(tmp_path):
    table().save_to_disk(tmp_path / "one")
    hf.DatasetDict({"train": table(ROWS[:2]), "test": table()}).save_to_disk(tmp_path / "two")
    lines = load(write_jsonl(tmp_path / "a.jsonl", ROWS), tmp_path).train
    saved = load(tmp_path / "one", tmp_path, format="hub").train
    split = load(tmp_path / "two", tmp_path, format="hub", hub_split="test").train
    first = load(tmp_path / "two", tmp_path, format="hub").train
    for one in (saved, split):
        for field in vars(lines):
            np.testing.assert_array_equal(getattr(one, field), getattr(lines, field))
    assert texts(first) == by_user(ROWS[:2])


def test_rows_that_were_selected_or_sorted_are_saved_as_they_are(tmp_path):
    table().select([4, 1, 3]).save_to_disk(tmp_path / "some")
    saved = load(tmp_path / "some", tmp_path, format="hub").train
    assert texts(saved) == by_user([ROWS[n] for n in (4, 1, 3)])


def test_a_changed_file_is_another_corpus_although_the_folder_says_the_same(tmp_path):
    """The fingerprint in ``state.json`` names how a table came to be, and is no hash of it."""
    table().save_to_disk(tmp_path / "one")
    changed = [(who, said.replace("again", "anew")) for who, said in ROWS]
    table(changed).save_to_disk(tmp_path / "other")
    before = load(tmp_path / "one", tmp_path, format="hub")
    [file] = (tmp_path / "other").glob("*.arrow")
    file.rename(tmp_path / "one" / file.name)
    after = load(tmp_path / "one", tmp_path, format="hub")
    assert texts(before.train) == by_user(ROWS)
    assert texts(after.train) == by_user(changed)


def test_a_split_that_is_not_there_is_one_line(tmp_path):
    hf.DatasetDict({"train": table(), "test": table()}).save_to_disk(tmp_path / "two")
    with pytest.raises(ConfigurationError, match=r"data\.hub_split=dev: .*test, train\.$"):
        load(tmp_path / "two", tmp_path, format="hub", hub_split="dev")


def test_a_damaged_file_is_one_line(tmp_path):
    table().save_to_disk(tmp_path / "one")
    [file] = (tmp_path / "one").glob("*.arrow")
    file.write_bytes(b"no table")
    with pytest.raises(ConfigurationError, match=r"data\.path=") as caught:
        load(tmp_path / "one", tmp_path, format="hub")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["jsonl", "csv", "parquet", "hub"])
def test_a_request_without_columns_has_them_all(tmp_path, name):
    path = tmp_path / f"a.{name}"
    if name == "hub":
        table().save_to_disk(path)
    else:
        frame = table().to_pandas()
        {
            "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
            "csv": lambda: frame.to_csv(path, index=False),
            "parquet": lambda: frame.to_parquet(path),
        }[name]()
    source = SOURCES.find(name)
    assert source.describes_itself
    rows = source.open(SourceRequest(path=str(path), columns={}), tmp_path).rows()
    assert [(row.columns["who"], row.columns["said"], str(row.columns["n"])) for row in rows] == [
        (who, said, "1") for who, said in ROWS
    ]
