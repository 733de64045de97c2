"""The audit figure shows each audited run's claim and bounds, and is absent without an audit."""

from __future__ import annotations

import json

import pytest

from helpers import run_folders
from userdp.analysis.report.figures import audit_bounds, figure
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run_folder import reader
from userdp.sim.run_folder.layout import RunFolder


def finding(check, measured, quantity="epsilon", decisive=0.5):
    return {"check": check, "quantity": quantity, "measured": measured, "decisive": decisive}


def audited(folder, broken=False):
    """A run folder with an audit of two bounds, an estimate and a property."""
    path = run_folders.write(folder)
    findings = [
        finding("repeated", 2.5),
        finding("guesses", 1.25),
        finding("cosines", 9.0, decisive=None),
        finding("noise", 0.99, quantity="stated / actual std"),
    ]
    values = {"epsilon": 3.0, "broken": broken, "findings": findings}
    RunFolder(path).audit.write_text(json.dumps(values))
    return path


def test_claim_and_bounds_are_drawn_and_neither_estimates_nor_other_quantities(tmp_path):
    [plot] = audit_bounds.section(reader.read(audited(tmp_path / "run"))).plots
    assert {(name, value) for name, _, value in plot.rows} == {
        *[("claimed", 3.0), ("repeated", 2.5), ("guesses", 1.25)]
    }
    assert "No check contradicts" in plot.note
    drawn = figure.figure(plot).axes[0]
    assert {text.get_text() for text in drawn.get_yticklabels()} == {"run"}


def test_a_broken_run_is_named_in_the_caption(tmp_path):
    audited(tmp_path / "good")
    audited(tmp_path / "bad", broken=True)
    [plot] = audit_bounds.section(reader.read(tmp_path)).plots
    assert "BROKEN: bad." in plot.note


def test_without_an_audit_there_is_no_figure(tmp_path):
    section = audit_bounds.section(reader.read(run_folders.write(tmp_path / "run")))
    assert not section.plots
    assert "userdp audit" in section.absent


@pytest.mark.parametrize("text", ["{", "[]", '{"epsilon": 1, "broken": false}'])
def test_a_damaged_audit_is_named(tmp_path, text):
    path = audited(tmp_path / "run")
    RunFolder(path).audit.write_text(text)
    with pytest.raises(ConfigurationError, match=r"audit\.json"):
        audit_bounds.section(reader.read(path))
