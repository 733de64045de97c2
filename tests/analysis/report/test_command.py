"""`userdp report`: its arguments, the files that it writes, and its errors."""

from __future__ import annotations

import pytest

from helpers import run_folders
from userdp.analysis.report import command
from userdp.sim import cli
from userdp.sim.run_folder import reader


def test_the_command_writes_the_page_and_prints_its_path(tmp_path, capsys):
    folder = run_folders.write(tmp_path / "run")
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report" / "report.html").is_file()
    assert str(folder / "report" / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one folder"),
        (["a", "b"], "name one folder"),
        (["nowhere"], "no such folder"),
        (["nowhere", "output="], "name one folder"),
        (["."], "no run there"),
        (["--json"], "no such option"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_table_without_its_column_is_named_in_the_error(tmp_path, capsys):
    tables = {"exposure.csv": [{"round": 1, "canary": 0}]}
    folder = run_folders.write(tmp_path / "run", tables=tables)
    assert cli.main(["report", str(folder)]) == 2
    assert "no column exposure_bits" in capsys.readouterr().err


def test_figures_of_several_tasks_have_different_files(tmp_path):
    for data, users in (("synthetic", 9), ("form_letters", 9), ("synthetic", 10)):
        for epsilon in (1.0, 8.0):
            settings = {"data__format": data, "data__users": users, "model__kind": "embedded"}
            run_folders.write(tmp_path / f"{data}{users}{epsilon}", epsilon=epsilon, **settings)
    plots = [plot for s in command.sections(reader.read(tmp_path)) for plot in s.plots]
    assert len({plot.name for plot in plots}) == len(plots)
    assert not [plot.title for plot in plots if "None" in plot.title]
