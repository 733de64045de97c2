"""The per-layer clip: its sums, its bounds, and the queries that the ledger records."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_table import ROUNDS
from toys import per_layer

from helpers import tiny
from helpers.whole_runs import stated
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.protocol.layout import Layout

USERS, CLIP = 6, 0.02  # below the norms of the tiny users' updates
BOUND = CLIP / math.sqrt(per_layer.LAYERS)
PUBLIC = {"users": USERS, "cohort": 3, "records_per_user": 3, "noise_multiplier": 1.0}
PER_LAYER = per_layer.PerLayer(clip_norm=CLIP, **PUBLIC)
JOINT = UserWise(clip_norm=CLIP, **PUBLIC)


def layers(vector: np.ndarray) -> list[np.ndarray]:
    """Layers of the flat vector (D,) of the tiny model's adapter."""
    starts = per_layer.layer_starts(tiny.language_model().layout)
    return np.split(vector, starts[1:])


def sum_of(folder: Path, mechanism: UserWise, users: range = range(USERS)) -> np.ndarray:
    """(D,) sum before noise over these users."""
    folder.mkdir()
    cohort = dataclasses.replace(tiny.everyone(USERS), users=np.array(users))
    run = tiny.federation(folder, mechanism, tiny.people(USERS), cohort=cohort)
    run.run()
    return run.total


def test_the_sum_is_that_of_the_users_updates_each_clipped_layer_by_layer(tmp_path):
    """The oracle takes the users' updates one by one, and clips and adds them in numpy."""
    unbounded, expected = dataclasses.replace(PER_LAYER, clip_norm=1e6), []
    for user in range(USERS):
        update = sum_of(tmp_path / str(user), unbounded, range(user, user + 1))
        clipped = [part * min(1, BOUND / np.linalg.norm(part)) for part in layers(update)]
        expected.append(np.concatenate(clipped))
    total = sum_of(tmp_path / "all", PER_LAYER)
    np.testing.assert_allclose(total, sum(expected), rtol=1e-4, atol=1e-7)


def test_each_layer_of_a_user_is_within_its_bound_and_under_the_joint_clip_it_is_not(tmp_path):
    norms = [
        [np.linalg.norm(part) for part in layers(sum_of(tmp_path / name, mechanism, range(1)))]
        for name, mechanism in (("per-layer", PER_LAYER), ("joint", JOINT))
    ]
    assert max(norms[0]) <= BOUND < max(norms[1])


def test_the_clip_rule_bounds_whole_rows_and_leaves_failed_rows_out():
    """The duties that `userdp.clients.training.clipping` lists."""
    source = torch.Generator().manual_seed(0)
    scales = torch.tensor([1e-4, 1.0, 1e3, 1e30, 1.0, 1.0])
    rows = torch.randn(6, 33, generator=source) * scales[:, None]
    rows[4, 7], rows[5, 0] = math.nan, -math.inf
    before = rows.clone()
    layout = Layout.of({"a": (3, 4), "b": (5,), "c": (7,), "d": (9,)})
    result = per_layer.clip_layers(rows, CLIP, layout)
    torch.testing.assert_close(rows, before, rtol=0, atol=0, equal_nan=True)
    clipped = result.rows()
    assert clipped.shape == (4, 33)
    assert float(torch.linalg.vector_norm(clipped, dim=1).max()) <= CLIP
    torch.testing.assert_close(clipped[0], rows[0].double(), rtol=0, atol=0)
    torch.testing.assert_close(result.total, clipped.sum(0))
    norms = torch.linalg.vector_norm(rows[:4].double(), dim=1)
    torch.testing.assert_close(result.norms[:4], norms)
    assert torch.isinf(result.norms[4:]).all()
    assert not result.factors[4:].any()
    with pytest.raises(ValueError, match="clip_norm"):
        per_layer.clip_layers(rows, 0.0, layout)


def test_the_queries_of_the_layers_cost_the_event_of_a_round(run_of):
    folder, printed = run_of("mechanism")
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    intents = [line for line in lines if line["kind"] == "intent"]
    assert len(intents) == ROUNDS
    for intent in intents:
        queries = intent["queries"]
        assert [query["name"] for query in queries] == [f"layer_{i}" for i in range(4)]
        precision = sum((query["sensitivity"] / query["noise_std"]) ** 2 for query in queries)
        assert precision**-0.5 == pytest.approx(intent["event"]["noise_multiplier"])
    assert stated(folder)["mechanism_details"]["layers"] == per_layer.LAYERS
    assert "clipped in 4 layers" in printed


def test_an_adaptive_clip_adds_its_query_to_those_of_the_layers(tmp_path):
    adaptive = dataclasses.replace(PER_LAYER, adaptive=AdaptiveClip(bit_noise=2.0))
    run = tiny.federation(tmp_path, adaptive, tiny.people(USERS))
    run.run(rounds=2)  # the ledger refuses queries that do not cost the event
    intents = [entry for entry in run.entries() if entry["kind"] == "intent"]
    assert [len(entry["queries"]) for entry in intents] == [per_layer.LAYERS + 1] * 2
