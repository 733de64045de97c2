"""A run that a kill or a full disk ended at a bad moment goes on; none has to be thrown away.

`trust.every_kill` leaves no point out; here stand the states that were dead ends once.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from helpers import small_world
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.common import durable_file
from userdp.sim.run import input_digests, runner

pytestmark = pytest.mark.slow  # whole runs

FIRST = ["run", *small_world.overrides("privacy.noise_multiplier=2", "privacy.epsilon=null")]
RESUME = ["run", "resume=run"]
RUN = Path("run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all its files, also the one that its last step deletes."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_digests, "delete", lambda folder: None)
        patch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
        assert cli.main([*FIRST, f"output={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def first_lines(run: Path, count: int) -> None:
    path = run / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:count]))


def ended(rounds: int = 2) -> None:
    """The run has ended with all its rounds, once each, and its files agree."""
    assert cli.main(["verify", "run"]) == 0
    assert ledger.verify(RUN / "ledger.jsonl").rounds == rounds
    logged = [json.loads(line)["round"] for line in (RUN / "metrics.jsonl").open()]
    assert logged == sorted(logged)
    assert logged.count(0) == 1
    assert not (RUN / "checkpoint" / "inputs.json").exists()


@pytest.mark.parametrize(
    ("left", "command"),
    [("no line", "first"), ("torn first line", "first"), ("torn first line", "resume")],
)
def test_killed_before_the_ledgers_first_line_the_run_begins(whole, left, command):
    RUN.mkdir()
    line = (whole / "ledger.jsonl").read_bytes().splitlines()[0]
    (RUN / "ledger.jsonl").write_bytes(line[:99] if left == "torn first line" else b"")
    if command == "resume":
        shutil.copy(whole / "config.yaml", RUN)
    assert cli.main([*FIRST, "output=run"] if command == "first" else RESUME) == 0
    ended()


@pytest.mark.parametrize("config", [None, "", "rounds: 2\ncohort: [6"])
def test_a_run_without_its_configuration_asks_for_its_first_command(whole, capsys, config):
    shutil.copytree(whole, RUN)
    (RUN / "config.yaml").unlink()
    if config is not None:
        (RUN / "config.yaml").write_text(config)
    assert cli.main(RESUME) == 2
    assert "first command again, with output=run" in " ".join(capsys.readouterr().err.split())


def test_killed_between_ledger_and_configuration_the_first_command_goes_on(whole):
    """As older versions could leave it: one line of a ledger, and no other file."""
    RUN.mkdir()
    shutil.copy(whole / "ledger.jsonl", RUN)
    first_lines(RUN, 1)
    assert cli.main(RESUME) == 2
    assert cli.main([*FIRST, "output=run"]) == 0
    assert "resumed" in (RUN / "ledger.jsonl").read_text()
    ended()


def test_a_file_that_was_half_written_is_cleared_when_the_run_goes_on(whole):
    shutil.copytree(whole, RUN)
    (RUN / "metrics.jsonl").write_bytes(b"".join(lines(whole)[:-1]))
    (RUN / "checkpoint" / "noise.tmp").write_bytes(b"half of it")
    assert cli.main(RESUME) == 0
    assert not list(RUN.rglob("*.tmp"))


def test_a_run_whose_rounds_are_spent_under_a_lost_configuration_is_finished(whole, capsys):
    shutil.copytree(whole, RUN)
    (RUN / "metrics.jsonl").write_bytes(b"".join(lines(whole)[:-1]))
    (RUN / "config.yaml").write_text("rounds: 2\ncohort: [6")
    before = ledger.verify(RUN / "ledger.jsonl").rounds
    assert cli.main([*FIRST, "output=run"]) == 0
    ended(before)
    assert "config.yaml is gone or damaged" in capsys.readouterr().err


def lines(run: Path) -> list[bytes]:
    return (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("without", ["summary", "adapter"])
def test_killed_among_its_last_files_the_run_is_finished_by_resume(whole, without):
    shutil.copytree(whole, RUN)
    (RUN / "metrics.jsonl").write_bytes(b"".join(lines(whole)[:-1]))
    if without != "summary":
        (RUN / "privacy_statement.json").unlink()
    if without == "adapter":
        shutil.rmtree(RUN / "adapter")
    assert cli.main(RESUME) == 0
    ended()


def test_a_statement_goes_before_the_ledger_of_its_run_does(whole, monkeypatch):
    """Else a second kill would leave a statement that its ledger contradicts."""
    shutil.copytree(whole, RUN)
    (RUN / "metrics.jsonl").write_bytes(b"".join(lines(whole)[:-1]))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner.finish, "finish", killed)
        assert cli.main(RESUME) == 130
    assert not (RUN / "privacy_statement.json").exists()
    assert cli.main(["verify", "run"]) == 0


def test_a_complete_run_is_not_resumed_and_says_so(whole, capsys):
    shutil.copytree(whole, RUN)
    before = (RUN / "ledger.jsonl").read_bytes()
    assert cli.main(RESUME) == 2
    assert "the run is complete" in capsys.readouterr().err
    assert (RUN / "ledger.jsonl").read_bytes() == before
    assert not (RUN / "checkpoint" / "inputs.json").exists()


def test_files_of_a_run_that_lost_its_ledger_are_not_taken_for_a_new_one(whole, capsys):
    shutil.copytree(whole, RUN)
    (RUN / "ledger.jsonl").unlink()
    assert cli.main(RESUME) == 2
    assert cli.main([*FIRST, "output=run"]) == 2
    assert "without its ledger" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "number"),
    [("config.yaml", errno.EDQUOT), ("state.pt", errno.ENOSPC)],
)
def test_a_full_disk_ends_a_run_in_one_line_and_resume_finishes_it(
    monkeypatch, capsys, number, file
):
    real = durable_file.write_all

    def full(opened, content):
        if os.readlink(f"/proc/self/fd/{opened.fileno()}").endswith(f"/{file}.tmp"):
            opened.write(content[: len(content) // 2])
            raise OSError(number, "full")
        real(opened, content)

    with monkeypatch.context() as patch:
        patch.setattr(durable_file, "write_all", full)
        small_world.model()
        capsys.readouterr()
        code = cli.main([*FIRST, "output=run"])
    assert code == (2 if file == "config.yaml" else 1)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("userdp: ")
    assert "output" in last
    assert file in last
    assert not list(RUN.rglob("*.tmp"))
    assert cli.main([*FIRST, "output=run"] if code == 2 else RESUME) == 0
    ended()


def test_files_are_written_in_the_order_that_a_resume_can_go_on_from(monkeypatch):
    """The order of docs/interruptions.md: what a later file's reader needs is on disk before it."""
    seen: list[str] = []
    real = durable_file.write_all

    def noted(opened, content):
        name = Path(os.readlink(f"/proc/self/fd/{opened.fileno()}")).name.removesuffix(".tmp")
        line = {} if name.endswith((".tmp", ".pt", ".md", ".safetensors")) else content[:400]
        kinds = ("header", "intent", "done", "summary/")
        seen.append(next((kind for kind in kinds if kind.encode() in bytes(line)), name))
        real(opened, content)

    monkeypatch.setattr(durable_file, "write_all", noted)
    assert cli.main([*FIRST, "rounds=1", "output=run"]) == 0
    wanted = ["config.yaml", "inputs.json", "header", "metrics.jsonl", "intent", "state.pt", "done"]
    end = ["README.md", "adapter_model.safetensors", "adapter_config.json"]
    end += ["tokenizer.json", "tokenizer_config.json", "samples.jsonl"]
    logged = ["metrics.jsonl", "metrics.jsonl"]  # of the round, and its score
    kept = [name for name in seen if name not in (".json", "score.json") and len(name) < 40]
    assert kept == [*wanted, *logged, *end, "privacy_statement.json", "summary/"]
