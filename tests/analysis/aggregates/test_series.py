"""Lines of a figure: the best cell at each point, and the caption that says so."""

from __future__ import annotations

from helpers import run_folders
from userdp.analysis.aggregates import seed_groups, series
from userdp.sim.run_folder import reader


def test_a_line_has_the_best_setting_at_each_epsilon_and_says_that_it_was_chosen(tmp_path):
    for rate, scores in ((0.1, (90.0, 70.0)), (0.2, (80.0, 75.0))):
        for epsilon, perplexity in zip((1.0, 8.0), scores, strict=True):
            run_folders.write(
                tmp_path / f"{rate}-{epsilon}",
                epsilon=epsilon,
                perplexity=perplexity,
                optimizer__lr=rate,
            )
    [task] = seed_groups.tasks(reader.read(tmp_path))
    lines = series.series(task.private, lambda cell: cell.level)
    assert [cell.score.median for cell in lines["user_wise", "random"]] == [80.0, 70.0]
    assert "chosen by held-out score" in series.chosen_among(task.private, lines)


def test_single_points_are_left_out_beside_longer_lines(tmp_path):
    for epsilon in (1.0, 8.0):
        run_folders.write(tmp_path / str(epsilon), epsilon=epsilon)
    run_folders.write(tmp_path / "longest", selection="longest")
    [task] = seed_groups.tasks(reader.read(tmp_path))
    lines = series.series(task.private, lambda cell: cell.level)
    assert set(series.fullest(lines)) == {("user_wise", "random")}
    single = {key: line[:1] for key, line in lines.items()}
    assert series.fullest(single) == single
