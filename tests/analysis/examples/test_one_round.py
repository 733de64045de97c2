"""The naive round of both algorithms: its sum is the engine's, and its noise has std z C / m."""

from __future__ import annotations

import ast
import copy
import functools
from pathlib import Path

import numpy as np
import peft
import pytest
import scipy.stats
import torch

from helpers import tiny
from userdp.analysis.examples import one_round
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings

K, RATE, NOISE_SEED = 3, 0.6, 7
# Clip norms that all, some and none of the units' gradients exceed.
CLIP_NORMS = [pytest.param(0.3, id="all"), pytest.param(1.3, id="some"), pytest.param(1e9, id="no")]


def generator(seed):
    return np.random.Generator(np.random.PCG64(seed))


@functools.cache
def models(family):
    """One adapter in the engine's model (and as a vector, (D,) float32), and in plain peft."""
    base = tiny.base_model(family)
    engine_model = LanguageModel(copy.deepcopy(base), LoraSettings(r=3, alpha=6))
    random = torch.randn(engine_model.layout.size, generator=torch.Generator().manual_seed(1))
    adapter = engine_model.initial + 0.1 * random
    plain = peft.get_peft_model(copy.deepcopy(base), engine_model.peft_config).eval()
    named = engine_model.layout.named(adapter.numpy())
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in named.items()}
    peft.set_peft_model_state_dict(plain, state)
    return engine_model, adapter, plain


def people():
    """Nine users of one to five records of 2 to 20 tokens; the last one, sampled too, has none."""
    return [*tiny.ragged_units(8, seed=6), []]


def slots():
    return [
        one_round.fill_slots(records, K, generator(20 + i)) for i, records in enumerate(people())
    ]


def tossed(count):
    """(count,) bool: what the coins of `released` show."""
    return generator(1).random(count) < RATE


def released(algorithm, model, clip_norm, noise_multiplier=0.0, users=None):
    """(D,) the mean that a naive round releases, with the same coins at every call."""
    arguments = {"q": RATE, "k": K, "C": clip_norm, "z": noise_multiplier}
    streams = {"coins": generator(1), "noise": generator(NOISE_SEED)}
    if algorithm == "user_wise":
        users = people() if users is None else users
        return one_round.user_wise_round(
            model, users, selection=generator(2), **streams, **arguments
        )
    users = slots() if users is None else users
    return one_round.group_privacy_round(model, users, **streams, **arguments)


def expected_units(algorithm):
    return RATE * len(people()) * (1 if algorithm == "user_wise" else K)


def sampled_units(algorithm):
    """The records of each sampled user, or each sampled slot alone, found from the coins."""
    if algorithm == "group_privacy":
        heads = tossed(K * len(people())).reshape(-1, K)
        pairs = zip(slots(), heads, strict=True)
        return [[records[i]] for records, hits in pairs if records for i in np.flatnonzero(hits)]
    units, selection = [], generator(2)
    for records, head in zip(people(), tossed(len(people())), strict=True):
        if head and records:
            units.append([records[i] for i in selection.permutation(len(records))[:K]])
    return units


def engine_sum(family, units, clip_norm):
    """(D,) the engine's sum of clipped gradients: an update is minus the gradient at local_lr 1."""
    model, adapter, _ = models(family)
    result = cohort_update.cohort_sum(
        model,
        adapter,
        units,
        clip_norm=clip_norm,
        local=cohort_update.LocalTraining(steps=1, lr=1.0),
        engine=EngineSettings(max_tokens=50, max_lanes=4),
    )
    return -np.asarray(result.total)


def in_engine_order(family, vector):
    """(D,) of a plain peft model's parameters, in the order of the engine's vector."""
    model, _, plain = models(family)
    parameters = [(n, p) for n, p in plain.named_parameters() if p.requires_grad]
    parts = np.split(vector, np.cumsum([p.numel() for _, p in parameters])[:-1])
    names = [name.replace(".default", "") for name, _ in parameters]
    named = dict(zip(names, parts, strict=True))
    return np.concatenate([named[name] for name, _ in model.layout.shapes])


def relative_error(vector, reference):
    return np.linalg.norm(vector - reference) / np.linalg.norm(reference)


def gradients(model, unit):
    """(records, D) of a unit's records."""
    return np.stack([one_round.record_gradient(model, record) for record in unit])


both_algorithms = pytest.mark.parametrize("algorithm", ["user_wise", "group_privacy"])


@both_algorithms
@pytest.mark.parametrize("clip_norm", CLIP_NORMS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_naive_sum_is_the_engines(family, clip_norm, algorithm):
    plain = models(family)[2]
    total = released(algorithm, plain, clip_norm) * expected_units(algorithm)
    reference = engine_sum(family, sampled_units(algorithm), clip_norm)
    assert relative_error(in_engine_order(family, total), reference) < 1e-5


@both_algorithms
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_clip_norms_clip_all_some_and_none_of_the_units(family, algorithm):
    plain = models(family)[2]
    norms = [np.linalg.norm(gradients(plain, unit).mean(0)) for unit in sampled_units(algorithm)]
    every, some, none = (parameter.values[0] for parameter in CLIP_NORMS)
    assert every < min(norms) < some < max(norms) < none


def test_sampled_users_have_no_records_fewer_than_k_k_and_more_than_k():
    sizes = {len(records) for records, head in zip(people(), tossed(9), strict=True) if head}
    assert sizes == {0, 1, K - 1, K, K + 1, K + 2}


def clipped_per_record(model, unit, C):
    return np.mean([one_round.clip(g, C) for g in gradients(model, unit)], axis=0)


def clipped_sum_of_records(model, unit, C):
    return one_round.clip(gradients(model, unit).sum(0), C)


def clipped_mean_over_tokens(model, unit, C):
    weights = [len(record) - 1 for record in unit]
    return one_round.clip(np.average(gradients(model, unit), axis=0, weights=weights), C)


def unclipped(model, unit, C):
    return gradients(model, unit).mean(0)


@pytest.mark.parametrize(
    ("wrong", "clip_norm"),
    [
        (clipped_per_record, 0.3),
        (clipped_per_record, 1.3),
        (clipped_sum_of_records, 1.3),
        (clipped_sum_of_records, 1e9),
        (clipped_mean_over_tokens, 0.3),
        (clipped_mean_over_tokens, 1e9),
        (unclipped, 1.3),
    ],
)
def test_a_wrong_user_wise_sum_is_not_the_engines(wrong, clip_norm):
    plain, units = models("gpt2")[2], sampled_units("user_wise")
    total = in_engine_order("gpt2", sum(wrong(plain, unit, clip_norm) for unit in units))
    assert relative_error(total, engine_sum("gpt2", units, clip_norm)) > 1e-3


@pytest.mark.parametrize("clip_norm", [0.3, 1.3])
def test_a_clip_after_averaging_a_users_slots_is_not_the_engines_group_privacy(clip_norm):
    plain, total = models("gpt2")[2], 0.0
    heads = tossed(K * len(people())).reshape(-1, K)
    for records, hits in zip(slots(), heads, strict=True):
        if records and hits.any():
            unit = [records[i] for i in np.flatnonzero(hits)]
            total += len(unit) * one_round.clip(gradients(plain, unit).mean(0), clip_norm)
    reference = engine_sum("gpt2", sampled_units("group_privacy"), clip_norm)
    assert relative_error(in_engine_order("gpt2", total), reference) > 1e-3


@both_algorithms
def test_the_release_is_sum_and_noise_over_the_expected_units(algorithm):
    plain, clip_norm, noise_multiplier = models("gpt2")[2], 1.3, 0.8
    m = expected_units(algorithm)
    total = released(algorithm, plain, clip_norm) * m
    noise = generator(NOISE_SEED).normal(0.0, noise_multiplier * clip_norm, len(total))
    mean = released(algorithm, plain, clip_norm, noise_multiplier)
    np.testing.assert_allclose(mean, (total + noise) / m, rtol=1e-12, atol=1e-14)


def consistent(sample, std):
    """Whether a chi-squared test at level 1e-6 accepts N(0, std^2) for a sample (n,)."""
    statistic = np.sum((sample / std) ** 2)
    low, high = scipy.stats.chi2(len(sample)).ppf([5e-7, 1 - 5e-7])
    return low < statistic < high


@both_algorithms
def test_the_noise_of_the_mean_has_std_z_c_over_m_also_without_any_record(algorithm):
    plain, clip_norm, noise_multiplier = models("gpt2")[2], 1.3, 0.8
    nobody = [[] for _ in people()]
    mean = released(algorithm, plain, clip_norm, noise_multiplier, users=nobody)
    std = noise_multiplier * clip_norm / expected_units(algorithm)
    assert consistent(mean, std)
    assert not consistent(mean, std * 2 / 3)
    assert not consistent(mean, std * 3 / 2)


def test_every_declared_position_tosses_one_coin_with_records_or_without():
    plain = models("gpt2")[2]
    for users in (slots(), [[] for _ in people()]):
        streams = {"coins": generator(1), "noise": generator(2)}
        one_round.group_privacy_round(plain, users, q=RATE, k=K, C=1.0, z=0.0, **streams)
        unused = generator(1)
        unused.random(K * len(users))
        assert streams["coins"].random() == unused.random()
        streams = {"coins": generator(1), "noise": generator(2), "selection": generator(3)}
        one_round.user_wise_round(plain, users, q=RATE, k=K, C=1.0, z=0.0, **streams)
        unused = generator(1)
        unused.random(len(users))
        assert streams["coins"].random() == unused.random()


@pytest.mark.parametrize("count", range(6))
def test_slots_are_filled_with_a_users_own_records_and_repeat_only_where_they_must(count):
    records = [np.array([i, i]) for i in range(count)]
    filled = [int(record[0]) for record in one_round.fill_slots(records, K, generator(0))]
    assert len(filled) == (K if count else 0)
    assert set(filled) <= set(range(count))
    assert len(set(filled)) == min(count, K)


def test_a_clip_keeps_direction_and_sends_what_has_no_norm_to_zero():
    g = np.array([3.0, -4.0])
    np.testing.assert_allclose(one_round.clip(g, 1.0), [0.6, -0.8], rtol=1e-15)
    np.testing.assert_array_equal(one_round.clip(g, 5.0), g)
    for broken in (0.0, np.inf, np.nan):
        np.testing.assert_array_equal(one_round.clip(np.array([0.0, broken]), 1.0), [0.0, 0.0])


def test_the_example_prints_a_line_for_each_user_and_for_each_noise_level(capsys):
    one_round.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *(f"user {number}" for number in range(6)),
        "z = 0",
        "z = 1",
    ]


def test_the_example_imports_nothing_of_userdp():
    tree = ast.parse(Path(one_round.__file__).read_text())
    names = [
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (getattr(node, "module", None), *(alias.name for alias in node.names))
    ]
    assert not [name for name in names if name and name.startswith("userdp")]
