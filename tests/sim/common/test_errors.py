"""Where an unexpected error arose: a library's line and ours, and never the text of the error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from userdp.sim.common import file_hash
from userdp.sim.common.errors import located

SECRET = "my locker code is 4711"


def caught(call) -> str:
    with pytest.raises(Exception) as info:  # noqa: PT011
        call()
    return located(info.value)


def test_the_text_of_an_error_is_left_out():
    def fail():
        raise ValueError(SECRET)

    text = caught(fail)
    assert text.startswith("ValueError at ")
    assert "test_errors.py" in text
    assert "locker" not in text


def test_an_error_of_a_library_names_its_line_and_our_line_that_called_it(tmp_path):
    text = caught(lambda: file_hash.of(tmp_path / "missing", tmp_path))
    assert text.startswith("FileNotFoundError at ")
    assert "file_hash.py" in text
    assert str(Path.home()) not in text
    assert str(tmp_path) not in text


def test_a_library_alone_names_its_last_line():
    text = caught(lambda: json.loads(SECRET))
    assert text.startswith("JSONDecodeError at json/decoder.py:")
    assert "locker" not in text


def test_an_error_that_was_never_raised_has_its_class_alone():
    assert located(KeyError(SECRET)) == "KeyError"
