"""What a command leaves alone before its work begins: imports, whole files, known scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import small_world
from userdp.sim.data import loading
from userdp.sim.data.corpus import Corpus
from userdp.sim.data.sources import jsonl, text_lines

pytestmark = pytest.mark.slow  # whole runs

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
    monkeypatch.setattr(text_lines, "lines", None)  # calling it fails
    again = loaded(path)
    assert again.name == first.name
    path.write_text(path.read_text() + '{"user_id": "new", "text": "x"}\n')
    with pytest.raises(TypeError):
        loaded(path)
