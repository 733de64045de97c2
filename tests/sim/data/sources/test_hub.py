"""Data sets of the hub that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.corpora import load
from userdp.sim.common.errors import ConfigurationError


def test_a_hub_name_that_does_not_load_is_a_configuration_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=r"data\.path='no-such/data-set'") as caught:
        load(Path("no-such/data-set"), tmp_path, format="hub")
    assert "\n" not in str(caught.value)
