"""Progress of a run: a bar on a terminal, ten lines in a file, epsilon never rounded down."""

from __future__ import annotations

import io

import pytest

from userdp.sim.console import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_file_is_a_line_every_tenth_of_the_run():
    stream = io.StringIO()
    with progress.Progress(30, stream) as bar:
        for number in range(1, 31):
            bar.update(
                number, epsilon=number / 8, score=("perplexity", 200.0) if number == 1 else None
            )
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "round 3/30  epsilon 0.38  perplexity 200"  # 0.375, never rounded down
    assert lines[-1] == "round 30/30  epsilon 3.75  perplexity 200"


@pytest.mark.parametrize("total", [1, 7, 25])
def test_progress_always_ends_with_the_last_round(total):
    stream = io.StringIO()
    with progress.Progress(total, stream) as bar:
        for number in range(1, total + 1):
            bar.update(number)
    assert stream.getvalue().splitlines()[-1] == f"round {total}/{total}"
    assert len(stream.getvalue().splitlines()) <= 13


def test_progress_on_a_terminal_shows_epsilon_and_perplexity(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress.Progress(4, stream) as bar:
        bar.update(4, epsilon=1.25, score=("perplexity", 150.0))
    assert "4/4" in stream.getvalue()
    assert "epsilon 1.25" in stream.getvalue()
    assert "perplexity 150" in stream.getvalue()
