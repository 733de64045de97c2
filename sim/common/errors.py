"""Why the command ends early, in one line: a wrong configuration, a run that stopped, a crash."""

from __future__ import annotations

import traceback
from pathlib import Path

_OURS = [Path(__file__).parents[2] / name for name in ("sim", "clients", "server", "analysis")]


class ConfigurationError(ValueError):
    """A configuration that cannot run; the message names the field, its value and the mend."""


class StoppedError(RuntimeError):
    """A run that stopped on its way and can be resumed; the message says why and how."""


def located(error: BaseException) -> str:
    """The kind of an error and where it arose, in a library and in our code that called it.

    Never its text, which may quote a record.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(map(Path(frame.filename).is_relative_to, _OURS))]
    places = dict.fromkeys(map(_place, [*frames[-1:], *ours[-1:]]))  # one, where they are the same
    where = ", called at ".join(places)
    return type(error).__name__ + (f" at {where}" if where else "")


def _place(frame: traceback.FrameSummary) -> str:
    """With the last folder of its path alone: the others are the machine's."""
    return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} in {frame.name}"
