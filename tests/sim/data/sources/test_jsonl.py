"""Jsonl files that hold something else, or nothing."""

from __future__ import annotations

import pytest

from helpers.corpora import load
from userdp.sim.common.errors import ConfigurationError


def test_a_file_of_another_format_or_without_records_is_a_configuration_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"PAR1\x00\x01 not json\n")
    with pytest.raises(ConfigurationError, match=r"data\.format='jsonl'"):
        load(path, tmp_path)
    path.write_text("")
    with pytest.raises(ConfigurationError, match="no training record"):
        load(path, tmp_path)
