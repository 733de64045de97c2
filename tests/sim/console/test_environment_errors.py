"""Errors of the environment are one line that names the setting to change."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.console import environment_errors


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setenv("USERDP_CACHE", "/fast/cache")
    monkeypatch.setenv("HF_HOME", "/home/me/hf")


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("/runs/1/checkpoint/state.pt", "output"),
        ("/fast/cache/corpora/1", "USERDP_CACHE"),
        ("/fast", "USERDP_CACHE"),
        ("/home/me/hf/hub", "HF_HOME"),
        (f"{tempfile.gettempdir()}/tmpx1/half", "TMPDIR"),
    ],
)
def test_the_setting_that_chooses_the_place_is_named(path, setting):
    error = PermissionError(errno.EACCES, "Permission denied", path)
    told = environment_errors.told(error, output=Path("/runs/1"))
    assert told is not None
    assert told.startswith(f"{setting}: {path}: Permission denied")
    assert f"set {setting}" in told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EROFS])
def test_a_library_that_passes_on_the_text_alone_is_understood(number):

    error = RuntimeError(f"Error while serializing: I/O error: {os.strerror(number)}")
    told = environment_errors.told(error, output=Path("/runs/1"))
    assert told is not None
    assert os.strerror(number) in told
    assert "\n" not in told


def test_the_cause_of_an_error_is_looked_at_and_other_errors_are_none_of_these():
    error = KeyError("x")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "No space left" in str(environment_errors.told(error))
    assert environment_errors.told(KeyError("x")) is None


def test_the_kind_that_is_raised_says_how_to_go_on_and_other_errors_pass():
    stopped = environment_errors.raised_as(
        StoppedError, {"output": Path("/runs/1")}, lambda: "resume with: x"
    )
    with pytest.raises(StoppedError, match=r"No space.*output=/runs/1.* resume with: x"), stopped:
        raise OSError(errno.ENOSPC, "No space left on device")
    for error in (ConfigurationError("a"), KeyError("b"), KeyboardInterrupt()):
        with pytest.raises(type(error)), environment_errors.raised_as(StoppedError, {}):
            raise error
