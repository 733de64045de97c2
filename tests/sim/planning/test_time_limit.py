"""Planning ends within a limit, and a timer of somebody else goes on."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.planning import time_limit


def test_what_takes_longer_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", 0.05)
    start = time.monotonic()

    def accounted():
        with time_limit.limited("rounds=7"):
            while time.monotonic() < start + 5:
                with contextlib.suppress(Exception):  # as accountants do, which must not take it
                    time.sleep(0.01)

    with pytest.raises(ConfigurationError, match=r"^rounds=7: .* 0\.05 s"):
        accounted()
    assert time.monotonic() - start < 2


def test_what_is_quick_is_left_alone_and_an_outer_timer_rings_after_it():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with time_limit.limited("rounds=7"):
            pass
        time.sleep(0.1)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
