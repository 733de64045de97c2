"""A node answers a round at most once, whichever process or thread it runs in."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from userdp.clients import node_keys
from userdp.clients.answered_rounds import AnsweredError, AnsweredRounds
from userdp.sim.common.errors import ConfigurationError

RUN, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def folder(tmp_path):
    node_keys.make(tmp_path / "keys", 2)
    return tmp_path / "keys"


@pytest.fixture(params=["memory", "disk"])
def answered(request, folder):
    return AnsweredRounds(folder if request.param == "disk" else None)


def test_a_round_is_answered_once_and_earlier_ones_never_again(answered):
    answered.note(0, RUN, 3)
    for number in (1, 2, 3):
        with pytest.raises(AnsweredError, match=f"round {number} .*answered round 3"):
            answered.note(0, RUN, number)
        with pytest.raises(AnsweredError):
            answered.check(0, RUN, number)
    answered.note(0, RUN, 5)
    with pytest.raises(AnsweredError):
        answered.note(0, RUN, 4)


def test_other_runs_and_other_nodes_have_rounds_of_their_own(answered):
    answered.note(0, RUN, 3)
    answered.note(0, OTHER, 1)
    answered.note(1, RUN, 1)
    with pytest.raises(AnsweredError):
        answered.note(0, RUN, 3)


def test_a_check_notes_nothing(answered):
    answered.check(0, RUN, 1)
    answered.note(0, RUN, 1)


def test_another_process_refuses_what_this_one_has_answered(folder):
    AnsweredRounds(folder).note(1, RUN, 3)
    code = (
        "import sys; from pathlib import Path\n"
        "from userdp.clients.answered_rounds import AnsweredRounds\n"
        "AnsweredRounds(Path(sys.argv[1])).note(1, sys.argv[2], int(sys.argv[3]))"
    )
    ended = {
        number: subprocess.run(
            [sys.executable, "-c", code, str(folder), RUN, str(number)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        for number in (3, 4)
    }
    assert "AnsweredError" in ended[3].stderr
    assert ended[4].returncode == 0
    with pytest.raises(AnsweredError):
        AnsweredRounds(folder).note(1, RUN, 4)


def test_of_many_who_would_answer_a_round_at_once_one_does(folder, monkeypatch):
    start, outcomes = threading.Barrier(4), []
    check = AnsweredRounds.check

    def slow(self, *arguments):
        check(self, *arguments)
        time.sleep(0.2)  # long enough for the others to pass the same check, if they could

    monkeypatch.setattr(AnsweredRounds, "check", slow)

    def answer():
        rounds = AnsweredRounds(folder)  # as in a process of its own
        start.wait()
        try:
            rounds.note(0, RUN, 1)
            outcomes.append("answered")
        except Exception as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["AnsweredError"] * 3 + ["answered"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "b"}', b'{"a": null}', b"\xff"])
def test_a_damaged_file_lets_the_node_answer_nothing(folder, content):
    (folder / "node-0.answered.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"damaged.*make new keys"):
        AnsweredRounds(folder).note(0, RUN, 1)
