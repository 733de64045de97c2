"""A fixture for tests of the page."""

from __future__ import annotations

import types
from collections.abc import Iterator

import pytest

from userdp.sim.run_folder import composed_epsilon

COMPOSED = "All runs together have epsilon 31.4 <at most>."


@pytest.fixture(autouse=True)
def composed(monkeypatch: pytest.MonkeyPatch) -> str:
    """Replaces the composed epsilon, which has tests of its own, by two fixed sentences."""
    replace_composition(monkeypatch)
    return COMPOSED


@pytest.fixture(scope="module")
def composed_once() -> Iterator[str]:
    """The same for a page that is written once for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        replace_composition(patch)
        yield COMPOSED


def replace_composition(patch: pytest.MonkeyPatch) -> None:
    """Until the patch is undone: other tests of the process need the real composition."""
    fixed = types.SimpleNamespace(sentences=[COMPOSED, "Second."])
    patch.setattr(composed_epsilon, "of_sweep", lambda folder: fixed)
