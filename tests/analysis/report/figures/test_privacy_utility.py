"""Score against epsilon and against k: medians and ranges worked out by hand."""

from __future__ import annotations

from helpers import run_folders
from helpers.figures import numbers
from userdp.analysis.report import command
from userdp.sim.run_folder import reader


def test_score_against_epsilon_is_the_median_and_range_of_the_seeds_at_each_epsilon(sections):
    [plot] = sections["frontier"].plots
    figures = numbers(plot)
    # By hand: seeds are off by -4, 1 and 9 from 120 and 80; group privacy is 10 above. The run
    # with k = 10 scored 70 and replaces the cell of k = 4 whose median is 81.
    assert figures["user_wise", 0.999] == (121.0, 116.0, 129.0, 3)
    assert figures["user_wise", 7.992] == (70.0, 70.0, 70.0, 1)
    assert figures["group_privacy", 0.999] == (131.0, 126.0, 139.0, 3)
    assert figures["group_privacy", 7.992] == (91.0, 86.0, 99.0, 3)
    assert figures["non-private", ""] == (60.0, 60.0, 60.0, 1)
    assert figures["base model", ""][:3] == (400.0, 400.0, 400.0)
    assert len(figures) == 6
    assert "chosen by held-out score" in plot.note


def test_perplexity_by_k_has_every_k_of_an_epsilon(sections):
    [plot] = sections["records"].plots
    figures = numbers(plot)
    assert figures["user_wise", 4.0] == (81.0, 76.0, 89.0, 3)
    assert figures["user_wise", 10.0] == (70.0, 70.0, 70.0, 1)
    assert not [name for name, _ in figures if name == "group_privacy"]


def test_an_incomplete_run_enters_no_figure(sections):
    drawn = [value for s in sections.values() for p in s.plots for row in p.rows for value in row]
    assert 50.0 not in drawn


def test_runs_on_other_data_are_never_in_one_figure(tmp_path):
    for data in ("mail", "plays"):
        for epsilon in (1.0, 8.0):
            folder = tmp_path / f"{data}{epsilon}"
            run_folders.write(folder, epsilon=epsilon, data__path=f"in/{data}/data.jsonl")
    section = command.sections(reader.read(tmp_path))[0]
    assert [plot.title.rpartition(": ")[2] for plot in section.plots] == ["mail", "plays"]
    assert all(len(numbers(plot)) == 3 for plot in section.plots)
