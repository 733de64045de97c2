"""Every point of a run at which it can be killed, and disks of twenty sizes (``make trust``)."""

from __future__ import annotations

import os

import pytest
from trust import every_kill, full_disk

pytestmark = [
    pytest.mark.trust,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed run is a fork"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("strategy", "stride"), [("user_wise", 1), ("matrix_factorization", 4)])
def test_a_run_goes_on_from_every_state_that_a_kill_can_leave(tmp_path, strategy, stride):
    (tmp_path / "disk").mkdir()
    full_disk.warmed(tmp_path)
    states = every_kill.states(strategy, tmp_path)
    assert sum(len(state.points) for state in states) > 60
    wrong = {s.points: every_kill.ended(strategy, s, tmp_path).faults for s in states[::stride]}
    assert {points: faults for points, faults in wrong.items() if faults} == {}


def test_a_disk_of_any_size_ends_a_run_in_one_line_and_it_goes_on_with_space(tmp_path):
    if not full_disk.can_mount():
        pytest.skip("this user may not mount a file system")
    place = tmp_path / "disk"
    place.mkdir()
    full_disk.warmed(tmp_path)
    needed = full_disk.needed(place)
    sizes = {max(4, round(needed * (n + 1) / 21 / 4) * 4) for n in range(20)}
    tried = [full_disk.ran(size, place, tmp_path / "diary") for size in sorted(sizes)]
    assert {outcome.kilobytes: outcome.faults for outcome in tried if outcome.faults} == {}
    assert {outcome.codes[0] for outcome in tried} >= {1, 2}
