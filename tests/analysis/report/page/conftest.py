"""A fixture for tests of the page."""

from __future__ import annotations

import types

import pytest

from userdp.sim.run_folder import composed_epsilon

COMPOSED = "All runs together have epsilon 31.4 <at most>."


@pytest.fixture(scope="package", autouse=True)
def composed():
    """Replaces the composed epsilon, which has tests of its own, by two fixed sentences."""
    with pytest.MonkeyPatch.context() as patch:
        fixed = types.SimpleNamespace(sentences=[COMPOSED, "Second."])
        patch.setattr(composed_epsilon, "of_sweep", lambda folder: fixed)
        yield COMPOSED
