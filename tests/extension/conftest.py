"""A project folder outside userdp, and one run for each of its extensions."""

from __future__ import annotations

import contextlib
import functools
import io
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # as the command does with its working folder

from toy_table import ROUNDS, SEARCH_PATH, TOYS

from helpers import small_world
from helpers.whole_runs import ran

Run = tuple[Path, str]  # the run's folder, and what the command printed


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the records of the small world in an SQLite file."""
    folder = tmp_path_factory.mktemp("project")
    rows = [(row["user_id"], row["text"]) for row in small_world.rows()]
    with contextlib.closing(sqlite3.connect(folder / "mail.db")) as database, database:
        database.execute("CREATE TABLE mail (sender TEXT, body TEXT)")
        database.executemany("INSERT INTO mail VALUES (?, ?)", rows)
    return folder


@pytest.fixture(autouse=True)
def working_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


@pytest.fixture(scope="session")
def run_of(project: Path) -> Callable[[str], Run]:
    """From the kind of an extension to a run with it, the same one in every test."""

    @functools.cache
    def run(kind: str) -> Run:
        options = [SEARCH_PATH, f"rounds={ROUNDS}", *TOYS[kind].overrides]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            folder = ran(project / kind.replace(" ", "-"), *options)
        return folder, printed.getvalue()

    return run
