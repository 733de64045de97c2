"""Plans and ledger headers of runs whose clip norm adapts."""

from __future__ import annotations

import json

from userdp.sim.config import hydra_compose
from userdp.sim.planning import planner
from userdp.sim.run import ledger_header


def test_the_noise_multiplier_and_epsilon_are_those_of_a_fixed_clip_norm():
    options = ["privacy.users=2164", "privacy.epsilon=3"]
    plans = {}
    for more in ((), ("strategy.clip_quantile=0.5",)):
        settings, _ = hydra_compose.settings([*options, *more])
        plans[more] = planner.bare(settings)
        facts = ledger_header.header(settings, plans[more], layout="l", base="b")
        json.dumps(facts, allow_nan=False)
    fixed, adaptive = plans.values()
    assert adaptive.epsilon == fixed.epsilon
    assert adaptive.mechanism.event() == fixed.mechanism.event()
    assert adaptive.mechanism.noise_std > fixed.mechanism.noise_std
    assert facts["adaptive_clip"] == {
        "quantile": 0.5,
        "learning_rate": 0.2,
        "bit_noise_std": 10.0,
        "update_noise_multiplier": adaptive.mechanism.update_multiplier,
    }
    assert facts["clip_norm"] == 1.0
