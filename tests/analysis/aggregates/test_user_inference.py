"""Rates of attacked runs by strategy and epsilon, by hand."""

from __future__ import annotations

import pytest

from helpers.run_folders import write
from userdp.analysis.aggregates import seed_groups, user_inference
from userdp.analysis.report.figures import user_inference as figure
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run_folder import reader


def attacked(auc: float, few: float = 0.9):
    rows = [
        {"group": group, "auc": value, "tpr_at_1": value / 10, "tpr_at_10": value / 2}
        for group, value in (("few", few), ("all", auc))
    ]
    return {
        "user_inference.csv": [
            {f"simulation_only/{column}": value for column, value in row.items()} for row in rows
        ]
    }


def written(folder):
    write(folder / "a", epsilon=8.0, seed=1, tables=attacked(0.6))
    write(folder / "b", epsilon=8.0, seed=2, tables=attacked(0.7))
    write(folder / "c", epsilon=1.0, tables=attacked(0.5))
    write(folder / "plain", strategy="non_private", tables=attacked(0.98))
    write(folder / "bare", epsilon=3.0)
    return reader.complete([folder])


def test_rates_over_all_users_are_averaged_over_the_runs_of_an_epsilon(tmp_path):
    rows = user_inference.table(written(tmp_path))
    cells = [(row["strategy"], row["epsilon"], row["runs"]) for row in rows]
    assert cells == [("non_private", None, 1), ("user_wise", 1.0, 1), ("user_wise", 8.0, 2)]
    assert [row["auc"] for row in rows] == pytest.approx([0.98, 0.5, 0.65])
    assert rows[2]["tpr_at_1"] == pytest.approx(0.065)
    assert rows[2]["tpr_at_10"] == pytest.approx(0.325)


def test_the_figure_shows_the_seeds_median_beside_guessing_and_the_plain_run(tmp_path):
    section = figure.section(seed_groups.tasks(written(tmp_path)))
    [plot] = section.plots
    assert plot.simulation_only
    points = {(label, x): rest for label, x, *rest in plot.rows}
    levels = {label: rest for label, x, *rest in plot.rows if x == ""}
    medians = sorted(rest[0] for (label, x), rest in points.items() if x != "")
    assert medians == pytest.approx([0.5, 0.65])
    assert levels["guessing"][0] == 0.5
    assert levels["non-private"][0] == pytest.approx(0.98)


def test_no_attacked_run_leaves_a_line_and_a_damaged_table_is_named(tmp_path, capsys):
    bare = reader.complete([write(tmp_path / "bare")])
    assert "userdp attack" in figure.section(seed_groups.tasks(bare)).absent
    assert figure.section(seed_groups.tasks(bare)).plots == []
    assert user_inference.main([str(tmp_path / "bare")]) == 2
    assert "userdp attack" in capsys.readouterr().err
    damaged = write(tmp_path / "damaged", tables={"user_inference.csv": [{"auc": 1}]})
    with pytest.raises(ConfigurationError, match="no column"):
        user_inference.table(reader.complete([damaged]))
