"""A partitioner of flwr-datasets says who the users are; here one with its public interface."""

from __future__ import annotations

import sys
from pathlib import Path

import datasets as hf
import numpy as np
import pytest

from helpers import small_world
from helpers.partitioners import ByNaturalId
from helpers.whole_runs import adapter, check_refused, ran
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import SourceRequest
from userdp.sim.data.sources.flwr_partitions import PartitionSource

REPEATABLE = ("privacy.reproducible=true", "optimizer=sgd")


class ByPairs(ByNaturalId):
    """Without natural ids: rows 0 and 1 are partition 0, and so on."""

    @property
    def num_partitions(self):
        return len(self.dataset) // 2

    def load_partition(self, partition_id):
        return self.dataset.select([2 * partition_id, 2 * partition_id + 1])


def source(partitioner, rows):
    partitioner.dataset = hf.Dataset.from_list(rows)
    return PartitionSource(lambda path: partitioner)


def request(**columns):
    names = {"data.user": "user_id", "data.text": "text"}
    return SourceRequest(path=None, columns={**names, **columns})


def opened(partitioner, rows, tmp_path, **columns):
    return source(partitioner, rows).open(request(**columns), tmp_path)


ROWS = [{"speaker": name, "text": f"{name} {n}"} for n in range(2) for name in ("eve", "ann")]


def test_each_partition_is_a_user_named_by_its_natural_id(tmp_path):
    rows = [row.columns for row in opened(ByNaturalId("speaker"), ROWS, tmp_path).rows()]
    assert [(row["user_id"], row["text"]) for row in rows] == [
        ("eve", "eve 0"), ("eve", "eve 1"), ("ann", "ann 0"), ("ann", "ann 1"),
    ]  # fmt: skip


def test_the_partition_and_not_a_column_of_the_name_says_whose_a_record_is(tmp_path):
    pairs = opened(ByPairs(None), ROWS, tmp_path, **{"data.user": "speaker"}).rows()
    assert [row.columns["speaker"] for row in pairs] == ["0", "0", "1", "1"]


def test_the_fingerprint_tells_contents_and_partitions_apart(tmp_path):
    def mark(partitioner, rows=ROWS):
        return opened(partitioner, rows, tmp_path).fingerprint

    assert mark(ByNaturalId("speaker")) == mark(ByNaturalId("speaker"))
    changed = [*ROWS[:-1], {"speaker": "ann", "text": "other"}]
    marks = [
        mark(ByNaturalId("speaker")),
        mark(ByNaturalId("text")),
        mark(ByPairs(None)),
        mark(ByNaturalId("speaker"), changed),
    ]
    assert len(set(marks)) == 4


def test_records_without_a_user_and_missing_columns_are_refused(tmp_path):
    whole = source(ByNaturalId("speaker"), ROWS)
    with pytest.raises(ConfigurationError, match=r"data.user=null: each partition is a user"):
        whole.check(SourceRequest(path=None, columns={"data.text": "text"}))
    with pytest.raises(ConfigurationError, match=r"data.text='said': no such column in partition"):
        list(opened(ByNaturalId("speaker"), ROWS, tmp_path, **{"data.text": "said"}).rows())


def test_an_error_of_the_partitioner_is_told_without_its_text(tmp_path):
    def make(path):
        raise KeyError("my locker code is 4711")

    with pytest.raises(ConfigurationError, match=r"could not be made \(KeyError\)") as caught:
        PartitionSource(make).open(request(), tmp_path)
    assert "locker" not in str(caught.value)


MY_USERS = """
import datasets
from helpers.partitioners import ByNaturalId
from userdp.sim.data.sources.flwr_partitions import PartitionSource

def make(path):
    partitioner = ByNaturalId(partition_by="user_id")
    partitioner.dataset = datasets.load_dataset("json", data_files=path, split="train")
    return partitioner

SOURCE = PartitionSource(make)
"""


@pytest.fixture
def _my_users(tmp_path, monkeypatch):
    """A module of the user's own, as the documentation has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    Path("my_users.py").write_text(MY_USERS)
    yield
    sys.modules.pop("my_users", None)


@pytest.mark.slow
@pytest.mark.usefixtures("_my_users")
def test_a_run_on_partitions_by_user_is_the_run_on_the_file(tmp_path):
    other = ran(tmp_path / "file", *REPEATABLE)
    ours = ran(tmp_path / "parts", "data.format=my_users.SOURCE", *REPEATABLE)
    np.testing.assert_array_equal(adapter(ours), adapter(other))


def test_a_module_whose_library_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lacking.py").write_text("import flwr_datasets_that_is_not_there\n")
    words = small_world.overrides("data.format=lacking.SOURCE", "output=refused")
    check_refused(capsys, ["run", *words], "data.format=lacking.SOURCE", "flwr_datasets_that")
