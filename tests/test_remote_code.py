"""No model, tokenizer or data set can bring code of its own: every call of a loader says so.

Where transformers gets no answer to ``trust_remote_code`` it asks the terminal, and a typed "y"
runs the code of a stranger's repository beside private records.
"""

from __future__ import annotations

import ast
from pathlib import Path

import datasets
import peft
import pytest

from userdp.clients.checkpoints import base_model
from userdp.sim.common.errors import ConfigurationError

ROOT = Path(__file__).parents[1]
ROOMS = ("sim", "clients", "server", "analysis")
LOADERS = ("from_pretrained", "from_config", "pipeline", "get_class_from_dynamic_module")
# Loaders that run no code but their package's own, and have no such argument: an adapter around a
# model that is there, and data sets, whose scripts this version refuses.
WITHOUT = ("peft.PeftModel.from_pretrained", "hf.load_dataset", "datasets.load_dataset")


def calls(source: str):
    """Each call of a loader in a module, as (dotted name, keywords)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in (*LOADERS, "load_dataset"):
                yield name, node


def trusts_nothing(node: ast.Call) -> bool:
    """Whether the call itself names ``trust_remote_code=False``."""
    return any(
        word.arg == "trust_remote_code"
        and isinstance(word.value, ast.Constant)
        and word.value.value is False
        for word in node.keywords
    )


def wrong(source: str) -> list[str]:
    return [
        name for name, node in calls(source) if name not in WITHOUT and not trusts_nothing(node)
    ]


SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def test_every_call_of_a_loader_trusts_no_remote_code():
    found = {str(path.relative_to(ROOT)): wrong(path.read_text()) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}
    loaders = [name for path in SOURCES for name, _ in calls(path.read_text())]
    assert len(loaders) >= 5  # the search finds what is there


def test_no_value_of_true_stands_anywhere():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("AutoModel.from_pretrained(p)", 1),
        ("AutoModel.from_pretrained(p, trust_remote_code=True)", 1),
        ("AutoModel.from_pretrained(p, trust_remote_code=flag)", 1),
        ("AutoModel.from_pretrained(p, trust_remote_code=False)", 0),
        ("peft.PeftModel.from_pretrained(base, p)", 0),
    ],
)
def test_the_search_itself(source, count):
    assert len(wrong(source)) == count


def test_the_loaders_without_the_argument_have_none():
    import inspect

    assert "trust_remote_code" not in inspect.signature(datasets.load_dataset).parameters
    assert "trust_remote_code" not in inspect.signature(peft.PeftModel.from_pretrained).parameters


@pytest.mark.parametrize("classes", [None, 2])
def test_a_model_with_code_of_its_own_is_refused_and_nobody_is_asked(
    tmp_path, monkeypatch, classes
):
    """Its code would leave a file; whoever is asked says yes."""
    import torch

    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config", '
        '"AutoModelForCausalLM": "own.Model", "AutoModelForSequenceClassification": "own.Model"}}'
    )
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append(1) or "y")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match=r"model\.path"):
        base_model.load(
            tmp_path,
            revision=None,
            dtype=torch.float32,
            device=torch.device("cpu"),
            classes=classes,
        )
    assert not asked
    assert not ran.exists()
