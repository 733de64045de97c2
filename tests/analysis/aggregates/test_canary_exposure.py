"""Exposure by strategy and epsilon over the canaries of all runs, by hand."""

from __future__ import annotations

import pytest

from helpers.run_folders import write
from userdp.analysis.aggregates import canary_exposure
from userdp.sim.run_folder import reader


def exposed(*after: float, before: float = 1.0):
    rows = [
        {"round": number, "canary": i, "rank": 1, "exposure_bits": before if number == 0 else bits}
        for number in (0, 10, 30)
        for i, bits in enumerate(after)
    ]
    rows[len(after)]["exposure_bits"] = 99  # of a round in between, which is not read
    return {"exposure.csv": rows}


def test_the_canaries_of_runs_of_one_mechanism_and_epsilon_are_taken_together(tmp_path):
    data = {"data__canary_references": 1023}
    paths = [
        write(tmp_path / "b", epsilon=8.0, seed=1, **data, tables=exposed(2, 4)),
        write(tmp_path / "n", strategy="non_private", **data,
               tables=exposed(10, 10)),
        write(tmp_path / "a", epsilon=8.0, data__canary_references=255,
               tables=exposed(1, 1, 3, before=2.0)),
        write(tmp_path / "c", epsilon=1.0, **data, tables=exposed(0.5)),
        write(tmp_path / "bare"),
    ]  # fmt: skip
    rows = canary_exposure.table(reader.complete(paths))
    cells = [(row["strategy"], row["epsilon"], row["runs"], row["canaries"]) for row in rows]
    assert cells == [
        ("non_private", None, 1, 2),
        ("user_wise", 1.0, 1, 1),
        ("user_wise", 8.0, 2, 5),
    ]
    assert rows[2]["bits_before"] == pytest.approx((1 + 1 + 2 + 2 + 2) / 5)
    assert rows[2]["bits_mean"] == pytest.approx((2 + 4 + 1 + 1 + 3) / 5)
    assert (rows[2]["bits_least"], rows[2]["bits_most"]) == (1, 4)
    assert [row["bits_limit"] for row in rows] == [10, 10, 8]


def test_the_command_prints_the_table_or_says_what_is_missing(tmp_path, capsys):
    assert canary_exposure.main([str(write(tmp_path / "bare"))]) == 2
    assert "data.canaries" in capsys.readouterr().err
    data = {"data__canary_references": 1023}
    one = write(tmp_path / "one", **data, tables=exposed(2.5))
    assert canary_exposure.main([str(one)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("user_wise,3.0,1,1,1.0,2.5")
