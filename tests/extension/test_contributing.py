"""The examples of CONTRIBUTING.md are the extensions' files; their number of files and lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from toy_table import FOLDER, TOYS

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"```(?:python|yaml)\n# toys/(\S+)\n(.*?)```", TEXT, re.DOTALL))
FILES = sorted(path for suffix in ("py", "yaml") for path in FOLDER.rglob(f"*.{suffix}"))


def lines(path: Path) -> int:
    """Lines of a file without blank ones and docstrings."""
    text, docstrings = path.read_text(), set()
    if path.suffix == ".py":
        scopes = (ast.Module, ast.ClassDef, ast.FunctionDef)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, scopes) and ast.get_docstring(node) is not None:
                docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    numbered = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and number not in docstrings for number, line in numbered)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_example_is_the_file_that_is_tested(path):
    assert EXAMPLES[path.relative_to(FOLDER).as_posix()] == path.read_text()


def test_every_example_is_a_file_and_every_file_belongs_to_one_extension():
    files = [path.relative_to(FOLDER).as_posix() for path in FILES]
    assert sorted(EXAMPLES) == sorted(files)
    assert sorted(file for toy in TOYS.values() for file in toy.files) == sorted(files)


def test_an_extension_is_one_python_file_and_at_most_one_of_configuration():
    print(f"\n{'extension':18}{'files':>6}{'python':>8}{'yaml':>6}  lines")
    for kind, toy in TOYS.items():
        counts = {Path(file).suffix: lines(FOLDER / file) for file in toy.files}
        assert len(counts) == len(toy.files) <= 2
        assert toy.files[0] == f"{toy.dotted.split('.')[1]}.py"
        print(f"{kind:18}{len(toy.files):6}{counts['.py']:8}{counts.get('.yaml', 0):6}")
