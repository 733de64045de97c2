"""Docstrings: their examples run, and public functions give shapes and the errors they raise."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from helpers import measures

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = [
    "userdp" if source.name == "sim.userdp" else f"userdp.{source.name}"
    for source in measures.sources(ROOT)
    if ">>>" in source.path.read_text()
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


def test_public_functions_with_arrays_give_shapes():
    functions, without = measures.array_functions(ROOT)
    assert len(functions) > 100
    assert not without


def test_public_functions_name_the_errors_they_raise():
    assert not measures.raises_untold(ROOT)


@pytest.mark.parametrize(
    ("code", "shapes", "raises"),
    [
        ('def f(x: Tensor) -> None:\n    """Adds rows."""', 1, 0),
        ('def f(x: Tensor) -> None:\n    """Adds rows (lanes, D)."""', 0, 0),
        ('def f(x: int) -> None:\n    """Adds."""\n    raise ValueError("no")', 0, 1),
        ('def f(x: int) -> None:\n    """Adds.\n\n    Raises:\n        ValueError: no."""\n'
         '    raise ValueError("no")', 0, 0),
    ],
)  # fmt: skip
def test_the_checks_find_what_is_missing(tmp_path, code, shapes, raises):
    for folder in measures.FOLDERS:
        (tmp_path / folder).mkdir()
    (tmp_path / "sim" / "module.py").write_text(code)
    assert len(measures.array_functions(tmp_path)[1]) == shapes
    assert len(measures.raises_untold(tmp_path)) == raises
