"""Selection rules at one epsilon, compared at one k."""

from __future__ import annotations

from helpers import run_folders
from userdp.analysis.aggregates import seed_groups
from userdp.analysis.report.figures import utility_by_selection
from userdp.sim.run_folder import reader


def test_selections_are_compared_at_the_k_with_most_of_them(tmp_path):
    """Random at k = 10 is the best run, but no rule was tried beside it."""
    for number, rule in enumerate(("random", "longest", "shortest")):
        for k in (2, 5):
            folder = tmp_path / f"{rule}-{k}"
            run_folders.write(folder, selection=rule, k=k, perplexity=100.0 + 10 * number - k)
    run_folders.write(tmp_path / "best", k=10, perplexity=50.0)
    [plot] = utility_by_selection.plots(seed_groups.tasks(reader.read(tmp_path))[0])
    assert plot.title.endswith("k = 5")
    assert {rule: median for _, rule, median, *_ in plot.rows} == {
        "random": 95.0,
        "longest": 105.0,
        "shortest": 115.0,
    }
