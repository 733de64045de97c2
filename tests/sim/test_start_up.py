"""What a command leaves alone before its work begins: imports, whole files, known scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import small_world
from userdp.clients.evaluation import heldout
from userdp.sim import cli
from userdp.sim.common import file_hash
from userdp.sim.data import loading
from userdp.sim.data.corpus import Corpus
from userdp.sim.data.sources import jsonl, streams

MODELS = {"torch", "transformers", "peft", "tokenizers"}
TABLES = {"datasets", "pandas", "pyarrow"}
SERVICES = {"wandb", "opacus", "dp_accounting", "scipy.stats", "sklearn"}
NETWORK = {"flwr", "grpc", "httpx"}
PRICE = ["privacy.users=10000", "cohort=500", "rounds=100", "privacy.epsilon=3"]


def imported(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after the code."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return set(told.stdout.splitlines()[-1].split())


def test_help_needs_nothing_but_the_standard_library():
    heavy = {"hydra", "omegaconf", "numpy", "scipy", "pydantic", "rich"}
    loaded = imported("from userdp.sim import cli; cli.main(['--help'])")
    assert not loaded & (heavy | MODELS | TABLES | SERVICES | NETWORK)


def test_a_plan_imports_no_model_no_table_and_no_network():
    loaded = imported(f"from userdp.sim import cli; assert cli.main(['plan', *{PRICE}]) == 0")
    assert not loaded & (MODELS | TABLES | SERVICES | NETWORK)
    assert "hydra" in loaded  # the check sees what is there


def test_a_run_imports_what_builds_a_corpus_only_where_one_is_built():
    loaded = imported(
        "from userdp.sim import cli; from userdp.sim.config import hydra_compose; "
        "from userdp.sim.run import runner; "
        "from userdp.sim.data.sources.registry import SOURCES; [*map(SOURCES.find, SOURCES)]"
    )
    assert not loaded & (TABLES | SERVICES)
    assert {"torch", "flwr"} <= loaded


class Letters:
    """A tokenizer without a library."""

    name = "letters"

    def __call__(self, texts):
        return [[*map(ord, text)] for text in texts]


def loaded(path: Path) -> Corpus:
    columns = loading.Columns(user="user_id", text="text")
    settings = loading.CorpusSettings(
        format="jsonl", path=str(path), columns=columns, split="record"
    )
    return loading.load(jsonl.SOURCE, settings, Letters(), path.parent / "cache")


def test_a_cached_corpus_is_found_without_reading_a_row(tmp_path, monkeypatch):
    path = tmp_path / "mail.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in small_world.rows()))
    first = loaded(path)
    monkeypatch.setattr(streams, "lines", None)  # calling it fails
    again = loaded(path)
    assert again.name == first.name
    path.write_text(path.read_text() + '{"user_id": "new", "text": "x"}\n')
    with pytest.raises(TypeError):
        loaded(path)


def settle(path: Path) -> None:
    """As if the file had been written long ago; its change time cannot be set."""
    os.utime(path, ns=(0, 0))


def test_a_file_is_hashed_once_while_it_stays_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(file_hash, "SETTLED_NS", 0)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one")
    first = file_hash.of(path, tmp_path)
    monkeypatch.setattr(file_hash.hashlib, "file_digest", None)
    assert file_hash.of(path, tmp_path) == first
    path.write_bytes(b"two")
    settle(path)  # the same size, and the time stamp of another content
    with pytest.raises(TypeError):
        file_hash.of(path, tmp_path)


def test_equal_size_and_time_do_not_make_files_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(file_hash, "SETTLED_NS", 0)
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for file, content in ((path, b"one"), (other, b"two")):
        file.write_bytes(content)
        settle(file)
    first = file_hash.of(path, tmp_path)
    other.replace(path)
    assert file_hash.of(path, tmp_path) != first


def test_a_file_changed_a_moment_ago_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one")
    file_hash.of(path, tmp_path)
    assert not list((tmp_path / "digests").glob("*"))


def test_a_damaged_note_is_no_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(file_hash, "SETTLED_NS", 0)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one")
    first = file_hash.of(path, tmp_path)
    for damage in ("", "{}", "[]", '{"stamp": 1}'):
        for note in (tmp_path / "digests").iterdir():
            note.write_text(damage)
        assert file_hash.of(path, tmp_path) == first


def groups(folder: Path) -> list[str]:
    """What a run says of groups of records before training."""
    lines = (folder / "groups.csv").read_text().splitlines()
    return [line for line in lines if line.startswith("0,")]


def test_runs_of_one_world_score_its_base_model_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    whole, calls = heldout.evaluate, []

    def counted(model, adapter, *arguments, **options):
        calls.append(adapter.clone())
        return whole(model, adapter, *arguments, **options)

    monkeypatch.setattr(heldout, "evaluate", counted)
    told, usual = [], ["rounds=1", "track.simulation_only=true"]
    for changes in ([], [], ["model.seq_len=12"], ["data.seed=1"]):
        output = tmp_path / str(len(told))
        asked = small_world.overrides(*usual, f"output={output}", *changes)
        before = len(calls)
        assert cli.main(["run", *asked]) == 0
        lines = (output / "metrics.jsonl").read_text().splitlines()
        score = next(json.loads(line) for line in lines if "heldout_loss" in line)
        told.append((len(calls) - before, score, groups(output)))
    assert [count for count, *_ in told] == [2, 1, 2, 2]  # before and after; else after alone
    assert told[0][1:] == told[1][1:]
    assert told[0][1] != told[2][1]
    assert len(told[0][2]) > 1
