"""Samples stand in two columns of any terminal, and no text of theirs is obeyed."""

from __future__ import annotations

from collections import Counter

import pytest
from rich.cells import cell_len

from userdp.clients.generation.sample import Sample
from userdp.sim.console import samples_table

LONG = "the cat sat on the mat and saw the old dog run to town " * 6
SAMPLES = [
    Sample("Subject: meeting", LONG, "漢字かな交じり文 " * 20),
    Sample("Subject: meeting", "", "x" * 300),
    Sample("", "[bold]not markup[/bold]", "a\x1b[31mred\r\x07"),
]


def signs(text):
    """How often each sign stands in a text, blanks apart."""
    return Counter("".join(text.split()))


@pytest.mark.parametrize("columns", [80, 120, 41])
def test_every_line_fits_and_nothing_is_lost(columns):
    lines = samples_table.table(SAMPLES, columns).splitlines()
    assert max(map(cell_len, lines)) <= columns
    told = "base model base model and adapter > Subject: meeting > (the beginning of a text)"
    texts = [text for sample in SAMPLES for text in (sample.base, sample.adapter)]
    texts[2] = "(nothing)"
    texts[-1] = r"a\x1b[31mred\r\x07"
    assert signs("".join(lines)) == signs(told + "".join(texts))


def test_the_columns_stand_beside_each_other():
    text = samples_table.table([Sample("p", "left words", "right words")], 80)
    [line] = [line for line in text.splitlines() if "left words" in line]
    assert line.index("right words") == 40


def test_control_characters_are_written_out():
    text = samples_table.table(SAMPLES, 80)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\\x1b[31mred\\r\\x07" in text


def test_the_closing_block_is_short_and_says_what_is_not_private(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    three = [Sample("a b", LONG * 9, LONG * 9)] * 3
    samples_table.print_closing(three, private=False)
    out = capsys.readouterr().out
    assert out.startswith("NOT PRIVATE: samples")
    assert len(out.splitlines()) <= 26
    samples_table.print_closing([], private=True)
    assert capsys.readouterr().out == ""
