"""Sensitivity: one user changes the sum before noise by at most C (user-wise) or k C (slots).

Measured through the whole client path: population, units, updates, clip, sums of nodes, their sum.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.neighbours import (
    BOUNDS,
    CLIP,
    ROUNDING,
    SLOT,
    USER,
    USERS,
    K,
    distances,
)
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.data.population import Population
from userdp.sim.protocol.contract import Assignment


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    for name in ("whole", *map(str, range(USERS))):
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("nodes", [1, USERS])
@pytest.mark.parametrize(("mechanism", "bound"), BOUNDS)
def test_no_user_moves_the_sum_by_more_than_the_bound_and_some_come_close(
    tmp_path, mechanism, bound, nodes
):
    everyone = tiny.everyone(USERS, K if mechanism is SLOT else None)
    moved = distances(tmp_path, mechanism, tiny.people(USERS), nodes=nodes, cohort=everyone)
    assert (moved <= bound * (1 + ROUNDING)).all()
    assert moved.max() > 0.5 * bound


@pytest.mark.parametrize(("mechanism", "bound"), BOUNDS)
def test_users_who_repeat_one_text_reach_the_bound(tmp_path, mechanism, bound):
    shouting = Population.of({f"u{i}": [[i + 1] * 9] * (K + i) for i in range(USERS)})
    everyone = tiny.everyone(USERS, K if mechanism is SLOT else None)
    moved = distances(tmp_path, mechanism, shouting, cohort=everyone)
    assert moved == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize(("mechanism", "bound"), BOUNDS)
def test_a_hundred_times_the_records_count_no_more(tmp_path, mechanism, bound):
    """All records are used (user-wise) or k are drawn (slots): many records count as one user."""
    lists = {f"u{i}": [r.tolist() for r in tiny.people(USERS).records(i)] for i in range(USERS)}
    lists["u2"] *= 100
    options = {"cohort": tiny.everyone(USERS, K if mechanism is SLOT else None)}
    if mechanism is USER:
        mechanism = dataclasses.replace(USER, records_per_user=0)
    moved = distances(tmp_path, mechanism, Population.of(lists), **options)
    assert (moved <= bound * (1 + ROUNDING)).all()


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize(("mechanism", "bound"), BOUNDS)
def test_the_bound_holds_in_the_smallest_cohorts(tmp_path, mechanism, bound, size):
    everyone = tiny.everyone(USERS, K if mechanism is SLOT else None)
    some = Assignment(everyone.users[:size], everyone.slots[:size])
    moved = distances(tmp_path, mechanism, tiny.people(USERS), cohort=some)
    assert (moved[size:] == 0).all()
    assert (moved[:size] <= CLIP * (1 + ROUNDING)).all()
    assert (moved[:size] > 0.9 * CLIP).all()


@pytest.mark.parametrize(("mechanism", "bound"), BOUNDS)
def test_the_bound_holds_with_the_mechanisms_own_coins_and_several_local_steps(
    tmp_path, mechanism, bound
):
    options = {"replay_seed": 4, "local_steps": 3, "local_lr": 0.5, "redraw": mechanism is USER}
    moved = distances(tmp_path, mechanism, tiny.people(USERS), nodes=2, **options)
    assert (moved <= bound * (1 + ROUNDING)).all()
    assert (moved > 0).any()


def explosive_model():
    """A model whose embedding of token 60 is infinite: updates of texts with it are not finite."""
    base = copy.deepcopy(tiny.base_model("llama"))
    base.get_input_embeddings().weight.data[60] = torch.inf
    return LanguageModel(base, LoraSettings(r=2, alpha=4))


@pytest.mark.parametrize("poison", [60, tiny.VOCABULARY], ids=["not-finite", "unknown-token"])
@pytest.mark.parametrize("nodes", [1, USERS])
@pytest.mark.parametrize(("mechanism", "bound"), BOUNDS)
def test_a_user_whose_update_fails_contributes_nothing_and_does_not_stop_the_round(
    tmp_path, mechanism, bound, nodes, poison
):
    lists = {f"u{i}": [[i + 1, 2, 3, 4, 5 + i]] * K for i in range(USERS)}
    lists["u1"] = [[poison, 1, poison]] * K
    options = {
        "model": explosive_model(),
        "nodes": nodes,
        "cohort": tiny.everyone(USERS, K if mechanism is SLOT else None),
    }
    moved = distances(tmp_path, mechanism, Population.of(lists), **options)
    assert moved[1] <= 1e-5 * bound
    assert (moved <= bound * (1 + ROUNDING)).all()
    assert np.delete(moved, 1).min() > 0.9 * bound


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_the_sum_and_the_adapter_do_not_depend_on_the_number_of_nodes(tmp_path, mechanism):
    runs = []
    for nodes in (1, 4, USERS, 50):
        (tmp_path / f"nodes{nodes}").mkdir()
        run = tiny.federation(
            tmp_path / f"nodes{nodes}", mechanism, tiny.people(USERS), nodes=nodes, replay_seed=9
        )
        runs.append((run.run(3), run.mechanism.sums))
    for adapter, sums in runs[1:]:
        np.testing.assert_allclose(adapter, runs[0][0], atol=1e-5)
        np.testing.assert_allclose(sums, runs[0][1], atol=1e-5 * CLIP)
    assert np.linalg.norm(runs[0][1][0]) > CLIP
