"""`flwr run .` as a user types it, without network: the run of the command, or a failed status."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from helpers import small_world
from helpers.whole_runs import stated
from userdp.sim import cli

ROOT, BIN = Path(__file__).parents[2], Path(sys.executable).parent
NO_NETWORK = {  # of the documentation
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def app(tmp_path):
    """The folder of the app, with the files of a clone that Flower reads."""
    folder = tmp_path / "userdp"
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def flwr(app, tmp_path):
    """Flower's command in that folder, with a SuperLink of its own that is ended afterwards."""
    home = tmp_path / "home"
    environment = {
        **os.environ,
        **NO_NETWORK,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "USERDP_CACHE": str(small_world.folder() / "cache"),
        "OMP_NUM_THREADS": "1",
    }

    def call(*words: str) -> str:
        done = subprocess.run(
            [BIN / "flwr", *words], cwd=app, env=environment, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    yield call
    for process in psutil.process_iter(["cmdline"]):
        if any(str(home) in word for word in process.info["cmdline"] or []):
            _end(process)


def _end(process):
    """End a process and those below it, of which some may end by themselves meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()


def test_a_bundle_holds_the_table_of_the_app_and_is_small(flwr, app):
    output = flwr("build")
    [bundle] = app.glob("*.fab")
    assert bundle.name in output
    names = zipfile.ZipFile(bundle).namelist()
    assert sorted(names) == [".info/CONTENT", "LICENSE", "README.md", "pyproject.toml"]
    assert bundle.stat().st_size < 100_000


@pytest.mark.slow
def test_flwr_run_makes_a_run_and_a_wrong_configuration_fails(flwr, tmp_path):
    def started(*words):
        text = shlex.join(small_world.overrides(*words))
        for _ in range(3):  # Flower gives its SuperLink 15 seconds to start, which may be busy ones
            output = flwr("run", ".", "--stream", "--run-config", f"config={json.dumps(text)}")
            if "Failed to start local SuperLink" not in output:
                break
        return output

    output = started(f"output={tmp_path / 'run'}")
    assert f"userdp: the run folder is {tmp_path / 'run'}" in output, output
    assert "round 2/2" in output
    assert stated(tmp_path / "run")["private"]
    assert cli.main(["verify", str(tmp_path / "run")]) == 0

    output = started(f"output={tmp_path / 'other'}", "rounds=0")
    assert "ConfigurationError: rounds=0: should be at least 1" in output
    assert not (tmp_path / "other").exists()
    runs = json.loads(flwr("list", "--format", "json"))["runs"]
    assert sorted(run["status"] for run in runs) == ["finished:completed", "finished:failed"]
