"""Runs of a small sweep, and the sections of its report."""

from __future__ import annotations

import pytest

from helpers import run_folders
from userdp.analysis.report import command
from userdp.analysis.report.figures.figure import Section
from userdp.sim.run_folder import reader


@pytest.fixture(scope="session")
def sweep_runs(tmp_path_factory) -> list[reader.Run]:
    return reader.read(run_folders.sweep(tmp_path_factory.mktemp("sweep")))


@pytest.fixture(scope="session")
def sections(sweep_runs) -> dict[str, Section]:
    return {section.name: section for section in command.sections(sweep_runs)}
