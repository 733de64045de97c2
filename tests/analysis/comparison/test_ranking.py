"""The table of a comparison against rows worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

from userdp.analysis.comparison import ranking
from userdp.analysis.comparison.ranking import Cell


def cell(strategy: str, selection: str, epsilon: float, *perplexities: float) -> Cell:
    return Cell(
        strategy=strategy,
        selection=selection,
        epsilon=epsilon,
        gradients=120.04,
        perplexities=perplexities,
    )


CELLS = [
    cell("group_privacy", "random", 3, 35.0, 37.0, 36.0),
    cell("user_wise", "longest", 8, 29.0, 31.0),
    cell("user_wise", "random", 3, 33.0, 34.0, 35.0),
    cell("user_wise", "longest", 3, 33.9, 33.8, 34.0),
]


def test_the_table_by_hand():
    head, _, *rows = ranking.markdown(CELLS).splitlines()
    assert "simulation_only" in head
    assert rows == [
        "| user_wise | longest | 3 | 120.0 | 33.90 [33.80, 34.00] |",
        "| user_wise | random | 3 | 120.0 | 34.00 [33.00, 35.00] |",
        "| group_privacy | random | 3 | 120.0 | 36.00 [35.00, 37.00] |",
        "| user_wise | longest | 8 | 120.0 | 30.00 [29.00, 31.00] |",
    ]


def test_without_simulation_only_no_text_holds_a_private_count():
    strict = [replace(one, gradients=None) for one in CELLS]
    texts = [ranking.markdown(strict), ranking.comma_separated(strict)]
    texts += [json.dumps(ranking.plain(one)) for one in strict]
    assert not [text for text in texts if "gradients" in text or "120" in text]
    assert len(ranking.markdown(strict).splitlines()) == len(ranking.markdown(CELLS).splitlines())
    assert ranking.plain(CELLS[0])["simulation_only/gradients"] == 120.04


def test_the_csv_holds_every_seed():
    rows = list(csv.reader(io.StringIO(ranking.comma_separated(CELLS))))
    assert rows[0][-3:] == ["perplexity_1", "perplexity_2", "perplexity_3"]
    assert rows[1][4:] == ["33.9", "33.9", "33.8", "34.0"]
    assert len(rows) == 5


def test_neighbours_of_one_epsilon_are_compared_with_the_larger_range():
    """0.1 is below 2; 2 does not exceed 2; epsilons 3 and 8 are not compared."""
    lines = ranking.differences(CELLS)
    assert len(lines) == 2
    assert "by 0.10, larger range 2.00: within the range" in lines[0]
    assert "by 2.00, larger range 2.00: within the range" in lines[1]
    apart = ranking.differences([cell("a", "x", 3, 30, 31), cell("b", "y", 3, 32, 34)])
    assert apart == [
        "- epsilon 3: a, x before b, y: means differ by 2.50, larger range 2.00: exceeds the range"
    ]


def test_one_seed_proves_nothing():
    [line] = ranking.differences([cell("a", "x", 3, 30), cell("b", "y", 3, 40)])
    assert "no range" in line
    assert "exceeds" not in line


def test_the_best_cell_is_that_of_the_given_epsilon():
    assert ranking.best(CELLS, 3).selection == "longest"
    assert ranking.best(CELLS, 8).perplexities == (29.0, 31.0)
