"""The wheels for a bare machine with a card: pinned versions, and no import without a package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "analysis" / "benchmark" / "wheels.sh"
# What the machine has, with all that these need (wheels.txt says so).
THERE = (
    *("torch", "transformers", "peft", "numpy", "scipy", "pandas", "pyarrow", "grpcio", "jinja2"),
    *("matplotlib", "rich"),
)


def name(text):
    """A package's name, as the index spells it."""
    return re.sub(r"[-_.]+", "-", text).lower()


def listed(*marks):
    """Names in wheels.txt with one of these marks; "" is no mark."""
    rows = (row.split() for row in (SCRIPT.parent / "wheels.txt").read_text().splitlines())
    rows = [[*row, ""] for row in rows if row and not row[0].startswith("#")]
    return [row[0] for row in rows if row[1] in marks]


def pins():
    rows = (ROOT / "constraints.txt").read_text().split()
    return {name(row.partition("==")[0]): row for row in rows}


def fetched(tmp_path, *words):
    """What the script asks of pip, whose place a program takes that writes its arguments down."""
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    stub.chmod(0o755)
    command = [str(SCRIPT), str(tmp_path / "wheels"), *words]
    done = subprocess.run(
        command, env={**os.environ, "PYTHON": str(stub)}, capture_output=True, text=True, timeout=60
    )
    asked = tmp_path / "asked"
    return done, asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize("words", [[], ["torchao"], ["torchao", "bitsandbytes"]])
def test_the_script_asks_for_every_listed_package_in_the_pinned_version(tmp_path, words):
    done, (download, wheel) = fetched(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert [word for word in download.split() if "==" in word] == [
        pins()[name(package)] for package in [*listed(""), *words]
    ]
    assert wheel.split()[-2:] == ["antlr4-python3-runtime==4.9.3", str(ROOT)]


def test_a_package_that_is_not_listed_is_refused(tmp_path):
    done, asked = fetched(tmp_path, "numpy")
    assert done.returncode == 2
    assert "numpy: choose among torchao bitsandbytes" in done.stderr
    assert asked == []


def needed(roots):
    """Names of these packages and of all that they need, of those that are installed here."""
    found, waiting = set(), list(roots)
    while waiting:
        package = name(waiting.pop())
        try:
            lines = [] if package in found else metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(package)
        wanted = map(Requirement, lines)
        waiting += [
            one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return found


LOADED = """
import importlib, json, sys
from userdp.analysis.benchmark import command, gpu_checks, worker
from userdp.sim import cli

for side in ("round", "fused_plain", "plain"):
    importlib.import_module(worker.SIDES[side][0])
gpu_checks.run("cpu")
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.slow
def test_all_that_the_case_imports_is_on_the_machine_or_on_the_list():
    """In a fresh process: all modules of the case, and its checks, which train and do a round."""
    command = [sys.executable, "-W", "ignore", "-c", LOADED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    packages = metadata.packages_distributions()
    loaded = {
        name(package)
        for module in json.loads(done.stdout.splitlines()[-1])
        for package in packages.get(module, ())
    }
    brought = {"userdp", *map(name, listed("", "source", "asked"))}
    lacking = loaded - needed(THERE)
    assert "flwr" in lacking  # else nothing was looked at
    assert lacking <= brought
