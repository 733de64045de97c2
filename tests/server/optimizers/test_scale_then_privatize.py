"""Scale-then-privatize: the scale follows its formula; clip and noise act on scaled updates."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import lanes, tiny
from userdp.clients.batching import unit_records
from userdp.clients.training import cohort_update
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import Release
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.optimizers.scale_then_privatize import ScaleThenPrivatize
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol import messages
from userdp.sim.tracking import tracker

SIZE, LR, B1, B2, EPS = 6, 0.1, 0.8, 0.95, 0.02
MAKE = functools.partial(ScaleThenPrivatize, lr=LR, betas=(B1, B2), scale_eps=EPS)
USERS, K, CLIP = 6, 3, 0.02
PUBLIC = {"users": USERS, "cohort": 3, "records_per_user": K, "clip_norm": CLIP}
USER = UserWise(noise_multiplier=1.2, **PUBLIC)
SLOT = GroupPrivacy(noise_multiplier=1.2, **PUBLIC)
BOUNDS = [pytest.param(USER, CLIP, id="user"), pytest.param(SLOT, K * CLIP, id="slot")]
ROUNDING = 1e-5  # a unit's float32 update depends a little on the shape of its stack


def started(make=MAKE, size=SIZE):
    return ServerOptimizer(np.linspace(-1, 1, size), make, lambda _: 1.0)


def slow_scale(means):
    """Oracle: s after means (t, D) in the updates' own space, a coordinate at a time."""
    t = len(means)
    inverse = []
    for d in range(means.shape[1]):
        second = math.fsum((1 - B2) * B2 ** (t - 1 - i) * means[i][d] ** 2 for i in range(t))
        inverse.append(1 / (math.sqrt(second / (1 - B2**t)) + EPS))
    return np.array(inverse) / math.sqrt(math.fsum(x * x for x in inverse) / len(inverse))


def test_the_scale_is_the_formulas_on_unscaled_means_and_its_root_mean_square_is_one():
    server, unscaled = started(), []
    assert server.scale is None
    for sent in np.random.default_rng(0).standard_normal((7, SIZE)) * 10.0 ** np.arange(-3, 3):
        unscaled.append(sent if server.scale is None else sent / server.scale)
        server.step(sent, 0.1)
        assert server.scale.dtype == np.float32
        np.testing.assert_allclose(server.scale, slow_scale(np.array(unscaled)), rtol=1e-5)
        assert np.sqrt(np.mean(server.scale.astype(np.float64) ** 2)) == pytest.approx(1, rel=1e-6)
    assert server.scale.max() / server.scale.min() > 10


def test_a_step_is_torchs_adam_on_the_unscaled_mean():
    ours, adam = started(), started(functools.partial(torch.optim.Adam, lr=LR, betas=(B1, B2)))
    for sent in np.random.default_rng(1).standard_normal((6, SIZE)) * [9, 3, 1, 1, 0.3, 0.1]:
        adam.step(sent if ours.scale is None else sent / ours.scale, 0.1)
        ours.step(sent, 0.1)
    np.testing.assert_array_equal(ours.adapter, adam.adapter)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_means_all_smaller_or_larger_alike_leave_the_scale_to_eps_alone(factor):
    """Far above eps the scale has no unit; far below it is one."""
    server, means = started(), factor * np.random.default_rng(2).standard_normal((4, SIZE))
    for mean in means:
        server.step(mean if server.scale is None else mean * server.scale, 0.1)
    wanted = np.ones(SIZE) if factor < 1 else None
    if wanted is None:
        large = started(functools.partial(MAKE, scale_eps=1e-12))
        for mean in means / factor:
            large.step(mean if large.scale is None else mean * large.scale, 0.1)
        wanted = large.scale
    np.testing.assert_allclose(server.scale, wanted, rtol=0.02)


@pytest.mark.parametrize("scale_eps", [0.0, -1.0, math.nan, math.inf])
def test_an_eps_that_bounds_no_scale_is_refused_in_one_line(scale_eps):
    with pytest.raises(ConfigurationError, match=r"optimizer\.scale_eps=") as error:
        started(functools.partial(MAKE, scale_eps=scale_eps))
    assert "\n" not in str(error.value)


def test_betas_that_are_no_pair_are_refused_in_one_line():
    with pytest.raises(ConfigurationError, match=r"optimizer\.betas=\[0\.9\]"):
        started(functools.partial(MAKE, betas=[0.9]))


class Bent(ScaleThenPrivatize):
    """Asks for the same strongly anisotropic scale in every round, the first included."""

    def scale(self):
        return bent(self.param_groups[0]["params"][0].numel())


def bent(size):
    """(size,) from a thousandth to 1, shuffled: no coordinate's scale goes with its place."""
    return np.random.default_rng(5).permutation(np.geomspace(1e-3, 1, size)).astype(np.float32)


def finished(folder, mechanism, population, rounds=1, **options):
    folder.mkdir(exist_ok=True)
    run = tiny.federation(folder, mechanism, population, **{"optimizer": Bent, **options})
    run.run(rounds)
    return run


@pytest.mark.parametrize("nodes", [1, USERS])
@pytest.mark.parametrize("options", [{}, {"local_steps": 3, "local_lr": 0.5}], ids=["one", "three"])
@pytest.mark.parametrize(("mechanism", "bound"), BOUNDS)
def test_in_scaled_space_no_user_moves_the_sum_by_more_than_the_bound(
    tmp_path, mechanism, bound, options, nodes
):
    people, everyone = tiny.people(USERS), tiny.everyone(USERS, K if mechanism is SLOT else None)
    options = {"cohort": everyone, "nodes": nodes, **options}
    whole = finished(tmp_path / "whole", mechanism, people, **options)
    moved, own_space = [], []
    for user in range(USERS):
        run = finished(tmp_path / str(user), mechanism, people.emptied(user), **options)
        moved.append(np.linalg.norm(whole.total - run.total))
        own_space.append(np.linalg.norm((whole.total - run.total) / bent(len(whole.total))))
    assert max(moved) <= bound * (1 + ROUNDING)
    assert max(moved) > 0.5 * bound
    assert max(own_space) > 1.5 * bound  # no bound there: the law is about the scaled space


def release_noise(run):
    """(rounds, D) what was added to the sums."""
    m = run.mechanism.expected_units
    return [m * a - b for a, b in zip(run.mechanism.means, run.mechanism.sums, strict=True)]


class BentSgd(Bent):
    """Adds each unscaled mean to the adapter, so that a test can read what was added."""

    def step(self, closure=None):
        [parameter] = self.param_groups[0]["params"]
        parameter.data -= parameter.grad


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_noise_is_isotropic_in_scaled_space_and_reaches_the_adapter_over_s(tmp_path, mechanism):
    run = finished(tmp_path, mechanism, tiny.people(USERS), 8, optimizer=BentSgd, replay_seed=None)
    noise, std = np.array(release_noise(run)), 1.2 * CLIP
    scale = bent(noise.shape[1])
    for part in np.array_split(np.argsort(scale), 3):  # small, middling and large scales alike
        noise_part = noise[:, part].ravel()
        assert stats.kstest(noise_part, "norm", args=(0, std)).pvalue > 1e-6
        for wrong in (2 / 3, 3 / 2):
            assert stats.kstest(noise_part, "norm", args=(0, wrong * std)).pvalue < 1e-6
    moved = run.strategy.optimizer.adapter - run.host.model.initial.numpy()
    wanted = np.sum(run.mechanism.means, axis=0) / scale
    np.testing.assert_allclose(moved, wanted, rtol=1e-4, atol=1e-5)


class Logged(tracker.NullTracker):
    """Keeps the figures of every round."""

    def __init__(self):
        self.figures = []

    def log(self, number, values, simulation_only=tracker.NONE):
        super().log(number, values, simulation_only)
        self.figures.append(values)


def test_figures_are_those_of_the_release_in_scaled_space(tmp_path):
    run = tiny.federation(tmp_path, USER, tiny.people(USERS), optimizer=STP)
    run.strategy.tracker = Logged()
    run.run(3)
    for figures, mean in zip(run.strategy.tracker.figures, run.mechanism.means, strict=True):
        norm, std = np.linalg.norm(mean), 1.2 * CLIP / 3
        assert figures["release_norm"] == pytest.approx(norm)
        assert figures["noise_std_on_mean"] == pytest.approx(std)
        signal = math.sqrt(max(0.0, norm**2 - len(mean) * std**2))
        assert figures["signal_norm"] == pytest.approx(signal)


def test_an_adaptive_clip_counts_the_units_that_are_unclipped_in_scaled_space(tmp_path):
    people, model = tiny.people(USERS), tiny.language_model()
    contract = tiny.contract(USER, round=1)
    chosen = list(unit_records.fetch(people, contract, tiny.everyone(USERS)))
    rows, _ = lanes.block_updates(
        model, model.initial, chosen, cohort_update.LocalTraining(), 10**6
    )
    norms = (rows * torch.from_numpy(bent(rows.shape[1]))).norm(dim=1).sort().values
    between = float(norms[1:3].mean())  # two units lie under it, and none without the scale
    assert (rows.norm(dim=1) > between).all()
    rule = AdaptiveClip(quantile=0.5, bit_noise=1.0)
    adaptive = dataclasses.replace(USER, adaptive=rule, clip_norm=between)
    run = finished(tmp_path, adaptive, people, cohort=tiny.everyone(USERS))
    assert run.mechanism.bits == [2 * 0.5 - 4 * 0.5]


def scales_sent(run):
    """By round: the scale that its messages carry, or None; the same for every node."""
    sent = {}
    for message in run.grid.sent:
        arrays = messages.read_scale(message)
        scale = None if arrays is None else run.host.model.layout.to_vector(arrays)
        number = int(message.metadata.group_id)
        np.testing.assert_array_equal(sent.setdefault(number, scale), scale)
    return sent


STP = functools.partial(ScaleThenPrivatize, lr=0.01, scale_eps=1e-3)


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_every_node_gets_the_scale_of_the_releases_so_far_and_the_first_round_none(
    tmp_path, mechanism
):
    cohort = tiny.everyone(USERS, K if mechanism is SLOT else None)
    run = tiny.federation(
        tmp_path, mechanism, tiny.people(USERS), optimizer=STP, nodes=3, cohort=cohort
    )
    run.run(4)
    sent, reference = scales_sent(run), ServerOptimizer(np.zeros(len(run.total)), STP, float)
    assert list(sent) == [1, 2, 3, 4]
    for number, mean in enumerate(run.mechanism.means, 1):
        if number == 1:
            assert sent[1] is None
        else:
            np.testing.assert_array_equal(sent[number], reference.scale)
        reference.step(mean, 0.1)
    assert sent[4].max() / sent[4].min() > 1.5


def test_a_node_that_is_asked_again_is_told_the_same_scale(tmp_path):
    failures = iter([ValueError("once")])

    def train(host, message):
        if message.metadata.group_id == "2":
            for failure in failures:
                raise failure
        return host.train(message)

    run = tiny.federation(tmp_path, USER, tiny.people(USERS), optimizer=STP, train=train)
    run.run(2)
    assert [m.metadata.group_id for m in run.grid.sent] == ["1", "2", "2"]
    assert scales_sent(run)[2] is not None


def test_the_same_releases_give_the_same_scale_whatever_the_data(tmp_path):
    """Two populations whose releases are exchanged: the scale goes with the releases."""
    sent = []
    for seed, users in itertools.product((0, 8), [tiny.people(USERS), tiny.people(USERS, seed=3)]):
        folder = tmp_path / f"{seed}{len(sent)}"
        folder.mkdir()
        run = tiny.federation(folder, USER, users, optimizer=STP, cohort=tiny.everyone(USERS))
        fixed = np.random.default_rng(seed).standard_normal((3, run.host.model.layout.size))
        given = iter([Release(mean, 0.1) for mean in fixed])
        run.mechanism.release = lambda *_, given=given: next(given)
        run.run(3)
        sent.append(scales_sent(run))
    for number in (2, 3):
        np.testing.assert_array_equal(sent[0][number], sent[1][number])
        np.testing.assert_array_equal(sent[2][number], sent[3][number])
        assert not np.allclose(sent[0][number], sent[2][number])


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
@pytest.mark.parametrize("stop", [1, 2])
def test_stopped_and_resumed_equals_an_uninterrupted_run(tmp_path, mechanism, stop):
    options = {"optimizer": STP, "nodes": 2}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = tiny.federation(tmp_path / "whole", mechanism, tiny.people(USERS), **options)
    adapter = whole.run(4)
    first = tiny.federation(tmp_path / "parts", mechanism, tiny.people(USERS), **options)
    first.run(stop)
    second = tiny.federation(
        tmp_path / "parts", mechanism, tiny.people(USERS), resume=True, **options
    )
    np.testing.assert_array_equal(second.run(4 - stop), adapter)
    resumed, uninterrupted = scales_sent(second), scales_sent(whole)
    for number in range(stop + 1, 5):
        np.testing.assert_array_equal(resumed[number], uninterrupted[number])
