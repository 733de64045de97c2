"""The server optimiser is torch.optim on the released mean, with the schedule's learning rate."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from userdp.server.optimizers import schedules, server_optimizer
from userdp.sim.common.errors import ConfigurationError

SIZE = 5
MAKERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.3),
    "momentum": functools.partial(torch.optim.SGD, lr=0.3, momentum=0.9),
    "adam": functools.partial(torch.optim.Adam, lr=0.1, betas=(0.8, 0.9), eps=1e-3),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2),
}


def releases(count):
    return np.random.default_rng(0).standard_normal((count, SIZE))


def started(make, factor=lambda _: 1.0, average=0.0):
    return server_optimizer.ServerOptimizer(np.linspace(-1, 1, SIZE), make, factor, average)


def by_formula(name, factor, means):
    """Oracle: the update rules in float64, written out."""
    x = np.linspace(-1, 1, SIZE)
    first, second = np.zeros(SIZE), np.zeros(SIZE)
    for t, mean in enumerate(means):
        gradient = -mean
        if name in ("sgd", "momentum"):
            first = (0.9 if name == "momentum" else 0.0) * first + gradient
            x = x - 0.3 * factor(t) * first
            continue
        beta1, beta2, eps = (0.8, 0.9, 1e-3) if name == "adam" else (0.9, 0.999, 1e-8)
        lr = 0.1 * factor(t)
        x = x * (1 - lr * 0.2) if name == "adamw" else x
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        corrected = first / (1 - beta1 ** (t + 1)), second / (1 - beta2 ** (t + 1))
        x = x - lr * corrected[0] / (np.sqrt(corrected[1]) + eps)
    return x


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_steps_follow_the_update_rule_and_the_schedule(name, schedule):
    factor = schedules.learning_rate_factor(schedule, 2, 8)
    server = started(MAKERS[name], factor)
    for mean in releases(6):
        server.step(mean, 0.1)
    wanted = by_formula(name, factor, releases(6))
    np.testing.assert_allclose(server.adapter, wanted, rtol=1e-4, atol=1e-5)


def test_a_step_goes_along_the_release():
    server = started(functools.partial(torch.optim.SGD, lr=1.0))
    before, [mean] = server.adapter, releases(1)
    server.step(mean, 0.1)
    np.testing.assert_allclose(server.adapter, before + mean, rtol=1e-6)


def test_learning_rate_is_that_of_the_next_step():
    factor = schedules.learning_rate_factor("linear", 1, 5)
    server = started(MAKERS["sgd"], factor)
    for t, mean in enumerate(releases(5)):
        assert server.learning_rate == pytest.approx(0.3 * factor(t))
        server.step(mean, 0.1)


@pytest.mark.parametrize("name", MAKERS)
def test_a_restored_optimiser_goes_on_as_if_it_never_stopped(name):
    factor = schedules.learning_rate_factor("cosine", 1, 8)
    whole, first = started(MAKERS[name], factor, 0.7), started(MAKERS[name], factor, 0.7)
    for mean in releases(6):
        whole.step(mean, 0.1)
    for mean in releases(6)[:3]:
        first.step(mean, 0.1)
    second = started(MAKERS[name], factor, 0.7)
    second.restore(first.state())
    for mean in releases(6)[3:]:
        second.step(mean, 0.1)
    np.testing.assert_array_equal(second.adapter, whole.adapter)
    np.testing.assert_array_equal(second.averaged, whole.averaged)
    assert second.learning_rate == whole.learning_rate


def test_the_adapter_and_its_average_are_copies():
    server = started(MAKERS["sgd"])
    server.adapter[:] = server.averaged[:] = 7
    assert not (server.adapter == 7).any()
    assert not (server.averaged == 7).any()


@pytest.mark.parametrize("average", [0.0, 0.5, 0.9])
def test_the_average_weighs_every_round_by_its_age(average):
    server = started(MAKERS["momentum"], average=average)
    np.testing.assert_array_equal(server.averaged, server.adapter)  # of no round: where it starts
    seen = []
    for mean in releases(6):
        server.step(mean, 0.1)
        seen.append(server.adapter.astype(np.float64))
    weights = np.array([average**age for age in reversed(range(6))])
    wanted = weights @ np.array(seen) / weights.sum()
    np.testing.assert_allclose(server.averaged, wanted, rtol=1e-5, atol=1e-6)
    if average == 0:
        np.testing.assert_array_equal(server.averaged, server.adapter)


def test_averaging_leaves_the_rounds_alone():
    plain, averaged = started(MAKERS["adam"]), started(MAKERS["adam"], average=0.9)
    for mean in releases(6):
        plain.step(mean, 0.1)
        averaged.step(mean, 0.1)
    np.testing.assert_array_equal(averaged.adapter, plain.adapter)
    assert np.abs(averaged.averaged - plain.averaged).max() > 0.01


@pytest.mark.parametrize("average", [-0.1, 1.0, math.nan])
def test_an_average_that_cannot_be_is_refused(average):
    with pytest.raises(ConfigurationError, match="average"):
        started(MAKERS["sgd"], average=average)
