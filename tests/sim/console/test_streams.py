"""Whatever standard output is, a command goes on and ends without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from userdp.sim.console import streams

PRINT = """
import contextlib, os, sys
from userdp.sim.console import streams
with streams.steady():
    print("epsilon \\u2264 3")
    sys.stdout.flush()
    opened = open(sys.argv[1], "w")
    for number in (1, 2):  # as a library in another language prints
        with contextlib.suppress(OSError):
            os.write(number, b"notice ")
    opened.write("a ledger")
    opened.close()
    print("more", file=sys.stderr)
    lost = streams.lost_output()
print("after")
sys.exit(3 if lost else 0)
"""


def run(shell: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -c '{PRINT}' {path} {shell}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "shell", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "| true", "2>/dev/full", "2>&1 | true"]
)
def test_closed_streams_end_nothing_and_no_file_gets_their_numbers(tmp_path, shell):
    done = run(shell, tmp_path / "file")
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert (tmp_path / "file").read_text() == "a ledger"


def test_output_that_a_full_disk_has_lost_is_told(tmp_path):
    assert run(">/dev/full", tmp_path / "file").returncode == 3
    assert (tmp_path / "file").read_text() == "a ledger"


def test_what_a_terminal_cannot_show_is_escaped(tmp_path):
    shown = run("", tmp_path / "file", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0
    assert "epsilon \\u2264 3" in shown.stdout


def test_the_streams_are_put_back():
    before = sys.stdout, sys.stderr
    with streams.steady():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
