"""Drawing: labels inside the figure, and what is stored beside it."""

from __future__ import annotations

from helpers import run_folders
from userdp.analysis.report import command
from userdp.analysis.report.figures.figure import figure
from userdp.sim.run_folder import reader


def test_axis_labels_lie_within_their_figure(tmp_path):
    """Labels of perplexity, of accuracy, and the long ones of shares."""
    run_folders.sweep(tmp_path / "sweep")
    for settings in ({"cohort": 100}, {"cohort": 100, "strategy": "non_private"}):
        run_folders.write(tmp_path / f"share-{len(settings)}", **settings)
        scored = {"heldout_accuracy": 0.9, "heldout_accuracy_before": 0.5}
        folder = tmp_path / f"classes-{len(settings)}"
        run_folders.write(folder, data__format="classes", summary=scored, **settings)
    plots = [plot for section in command.sections(reader.read(tmp_path)) for plot in section.plots]
    assert len({plot.name.split("_")[0] for plot in plots} & {"gain", "privacy", "by"}) == 3
    for plot in plots:
        drawn = figure(plot)
        [ax] = drawn.axes
        drawn.draw_without_rendering()
        for label in (ax.xaxis.label, ax.yaxis.label):
            corners = label.get_window_extent().get_points()
            assert all(drawn.bbox.padded(1).contains(x, y) for x, y in corners), plot.name
