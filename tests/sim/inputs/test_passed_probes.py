"""A large model that passed the isolation probe is not probed again; all else is."""

from __future__ import annotations

import pytest
import torch

from helpers import tiny
from userdp.clients.models import isolation_probe
from userdp.clients.models.isolation_probe import Isolation
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.inputs import passed_probes

PASSED = Isolation(rounding=1e-7, content=0.0, packing=0.0, lengths=(9, 20))


@pytest.fixture
def probes(monkeypatch, tmp_path):
    """The lengths that models were probed at, where every model counts as a large one."""
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path))
    monkeypatch.setattr(passed_probes, "_LARGE", 0)
    asked = []
    monkeypatch.setattr(
        isolation_probe, "probe", lambda model, length: asked.append(length) or PASSED
    )
    return asked


def test_a_model_that_passed_is_probed_once(probes):
    found = [passed_probes.probe(tiny.language_model(), 20, ("a",)) for _ in range(3)]
    assert found == [PASSED] * 3
    assert probes == [20]


def test_another_weight_length_option_code_or_library_is_probed(probes, monkeypatch):
    model = tiny.language_model()
    passed_probes.probe(model, 20, ("a",))
    passed_probes.probe(model, 21, ("a",))
    passed_probes.probe(model, 20, ("b",))
    next(iter(model.module.parameters())).data.flatten()[0] += 1
    passed_probes.probe(model, 20, ("a",))
    monkeypatch.setattr(passed_probes.statement, "code_hash", lambda packages: "other code")
    passed_probes.probe(model, 20, ("a",))
    monkeypatch.setattr(torch, "__version__", "3.0")
    passed_probes.probe(model, 20, ("a",))
    assert probes == [20, 21, 20, 20, 20, 20]


def test_a_model_that_fails_is_probed_each_time(probes, monkeypatch):
    def fail(model, length):
        probes.append(length)
        raise ConfigurationError("mixes users")

    monkeypatch.setattr(isolation_probe, "probe", fail)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="mixes users"):
            passed_probes.probe(tiny.language_model(), 20, ())
    assert probes == [20, 20]


def test_a_small_model_leaves_nothing_in_the_cache(probes, monkeypatch, tmp_path):
    monkeypatch.setattr(passed_probes, "_LARGE", 1 << 24)
    passed_probes.probe(tiny.language_model(), 20, ())
    passed_probes.probe(tiny.language_model(), 20, ())
    assert probes == [20, 20]
    assert list(tmp_path.iterdir()) == []
