"""DP-AdamBC against the published rule in plain Python, torch's Adam, and pure noise."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from helpers import tiny
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.optimizers.adam_bc import AdamBC
from userdp.server.optimizers.schedules import learning_rate_factor
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.sim.common.errors import ConfigurationError

SIZE, LR, B1, B2, FLOOR = 6, 0.1, 0.8, 0.95, 0.02
MAKE = functools.partial(AdamBC, lr=LR, betas=(B1, B2), floor=FLOOR)


def started(make=MAKE, size=SIZE, factor=lambda _: 1.0):
    return ServerOptimizer(np.linspace(-1, 1, size), make, factor)


def releases(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, SIZE))


def slow(means, stds, factor=lambda _: 1.0, floor=FLOOR):
    """Oracle: the sums that the recursions unroll to, a coordinate and a step at a time."""
    adapter = np.linspace(-1, 1, SIZE)
    for t in range(1, len(means) + 1):
        fresh1 = [(1 - B1) * B1 ** (t - i) for i in range(1, t + 1)]
        fresh2 = [(1 - B2) * B2 ** (t - i) for i in range(1, t + 1)]
        for d in range(SIZE):
            first = math.fsum(w * means[i][d] for i, w in enumerate(fresh1)) / (1 - B1**t)
            second = math.fsum(w * means[i][d] ** 2 for i, w in enumerate(fresh2)) / (1 - B2**t)
            noise = math.fsum(w * stds[i] ** 2 for i, w in enumerate(fresh2)) / (1 - B2**t)
            adapter[d] += LR * factor(t - 1) * first / math.sqrt(max(second - noise, floor))
    return adapter


@pytest.mark.parametrize("stds", [[0.0] * 7, [0.6] * 7, [0.2, 0.9, 0.1, 1.5, 0.3, 0.7, 0.5]])
def test_steps_follow_the_rule_with_noise_that_changes_from_round_to_round(stds):
    factor = learning_rate_factor("linear", 2, 9)
    server = started(factor=factor)
    for mean, std in zip(releases(7), stds, strict=True):
        server.step(mean, std)
    np.testing.assert_allclose(server.adapter, slow(releases(7), stds, factor), rtol=1e-4)


def test_without_noise_it_is_torchs_adam_wherever_the_floor_does_not_reach():
    means = 1 + releases(9) ** 2  # second moments above the floor
    ours, adam = started(), started(functools.partial(torch.optim.Adam, lr=LR, betas=(B1, B2)))
    for mean in means:
        ours.step(mean, 0.0)
        adam.step(mean, 0.0)
    np.testing.assert_allclose(ours.adapter, adam.adapter, rtol=1e-5)


def test_without_noise_a_floor_on_the_variance_is_torchs_adam_fed_with_no_less():
    """Where every second moment is at the floor, a step is momentum over sqrt(floor)."""
    server, mean = started(), np.full(SIZE, 0.01)
    before = server.adapter
    server.step(mean, 0.0)
    np.testing.assert_allclose(server.adapter - before, LR * mean / math.sqrt(FLOOR), rtol=1e-4)


def denominators(make, signal, ratio, rounds=4000, size=400, sigma=0.05):
    """(size,) what the momentum was divided by in the last step along ``signal`` plus noise.

    Args:
        ratio: noise_std that the optimiser is given, over the true one.
    """
    chance = np.random.default_rng(7)
    server, first = started(make, size), np.zeros(size)
    for _ in range(rounds):
        mean, before = signal + sigma * chance.standard_normal(size), server.adapter
        server.step(mean, ratio * sigma)
        first = B1 * first + (1 - B1) * mean
    moved = server.adapter.astype(np.float64) - before
    return LR * first / moved


SLOW = {"lr": LR, "betas": (B1, 0.999)}


def test_on_pure_noise_the_denominator_falls_to_the_floor_while_adams_stays_at_sigma():
    floor, sigma = (0.3 * 0.05) ** 2, 0.05  # three standard deviations of what the average leaves
    ours = denominators(functools.partial(AdamBC, floor=floor, **SLOW), 0.0, 1.0)
    adams = denominators(functools.partial(torch.optim.Adam, **SLOW), 0.0, 1.0)
    assert np.median(ours) == pytest.approx(math.sqrt(floor), rel=0.01)
    assert np.median(adams) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize(("ratio", "holds"), [(1.0, True), (2 / 3, False), (1.5, False)])
def test_the_denominator_is_the_signals_and_no_other_noise_level_gives_it(ratio, holds):
    signal = 0.05
    denominator = denominators(functools.partial(AdamBC, floor=1e-5, **SLOW), signal, ratio)
    assert (abs(np.median(denominator) / signal - 1) < 0.03) == holds


def test_a_restored_optimiser_goes_on_as_if_it_never_stopped():
    stds = [0.2, 0.9, 0.1, 1.5, 0.3, 0.7]
    whole, first, second = started(), started(), started()
    for mean, std in zip(releases(6), stds, strict=True):
        whole.step(mean, std)
    for mean, std in zip(releases(6)[:3], stds[:3], strict=True):
        first.step(mean, std)
    second.restore(first.state())
    for mean, std in zip(releases(6)[3:], stds[3:], strict=True):
        second.step(mean, std)
    np.testing.assert_array_equal(second.adapter, whole.adapter)


PUBLIC = {"users": 6, "cohort": 3, "records_per_user": 2, "clip_norm": 0.05}
ADAPTIVE = UserWise(
    noise_multiplier=1.2, adaptive=AdaptiveClip(learning_rate=1.0, bit_noise=1.0), **PUBLIC
)


def test_a_run_tells_it_the_noise_of_each_release_though_the_clip_norm_moves(tmp_path):
    low = functools.partial(MAKE, floor=1e-6)  # far below the noise: the given noise_std decides
    run = tiny.federation(tmp_path, ADAPTIVE, tiny.people(6), optimizer=low)
    adapter = run.run(4)
    releases = run.mechanism.releases
    stds = [release.noise_std for release in releases]
    norms = [entry["queries"][0]["noise_std"] for entry in run.entries() if "queries" in entry]
    np.testing.assert_allclose(stds, np.array(norms) / 3)
    assert max(stds) > 1.2 * min(stds)
    means = [release.mean[:SIZE] for release in releases]
    moved = slow(means, stds, floor=1e-6) - np.linspace(-1, 1, SIZE)
    wanted = run.host.model.initial.numpy()[:SIZE] + moved
    np.testing.assert_allclose(adapter[:SIZE], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_stopped_and_resumed_equals_an_uninterrupted_one(tmp_path, stop):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    people = tiny.people(6)
    whole = tiny.federation(tmp_path / "whole", ADAPTIVE, people, optimizer=MAKE).run(4)
    tiny.federation(tmp_path / "parts", ADAPTIVE, people, optimizer=MAKE).run(stop)
    rest = tiny.federation(tmp_path / "parts", ADAPTIVE, people, optimizer=MAKE, resume=True)
    np.testing.assert_array_equal(rest.run(4 - stop), whole)


def test_a_step_whose_noise_nobody_told_is_refused_even_after_one_that_was():
    parameter = torch.nn.Parameter(torch.zeros(2))
    rule = AdamBC([parameter])
    parameter.grad = torch.ones(2)
    rule.param_groups[0]["noise_std"] = 0.1
    rule.step()
    with pytest.raises(ValueError, match="noise_std"):
        rule.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "optimizer.lr=0.0: must be positive"),
        ({"lr": math.nan}, "optimizer.lr=nan"),
        ({"floor": 0.0}, "optimizer.floor=0.0"),
        ({"floor": -1.0}, "optimizer.floor=-1.0"),
        ({"betas": (0.9, 1.0)}, r"optimizer.betas=\[0.9, 1.0\]"),
        ({"betas": (0.9,)}, r"optimizer.betas=\[0.9\]"),
    ],
)
def test_a_value_out_of_its_range_is_told_in_one_line(options, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        AdamBC([torch.nn.Parameter(torch.zeros(2))], **options)
    assert "\n" not in str(error.value)
