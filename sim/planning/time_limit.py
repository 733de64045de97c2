"""A limit on the time that planning a run may take, so that no configuration hangs.

The accountants' cost grows with rounds, records per user and the smallness of noise or rate, in
ways that no bound of a single setting describes. The limit is a timer of the process, so it holds
in the main thread alone, and where the system has such timers.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from userdp.sim.common.errors import ConfigurationError

SECONDS = 300.0  # ten times what the largest plan of the documentation takes on a slow core


class _TimeUpError(BaseException):
    """Raised by the timer: no `except` of an accountant, which expects other errors, takes it."""


@contextlib.contextmanager
def limited(described: str) -> Iterator[None]:
    """Ends the block after `SECONDS`.

    Args:
        described: the settings that decide how long planning takes, with their values.

    Raises:
        ConfigurationError: the time is up; names ``described``.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return
    before, start = signal.signal(signal.SIGALRM, _ring), time.monotonic()
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except _TimeUpError:
        raise ConfigurationError(
            f"{described}: what these settings cost was not found within {SECONDS:g} s; take fewer "
            "rounds or records per user, a larger cohort, or noise that is neither tiny nor huge."
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if remaining:  # somebody else's timer goes on, less the time that has passed
            left = max(0.001, remaining - (time.monotonic() - start))
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def _ring(number: int, frame: FrameType | None) -> None:
    raise _TimeUpError
