"""The other extensions: each took part in its run, and computes what it says."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from toy_table import NODES, REPEATABLE, ROUNDS, SEARCH_PATH, TOYS
from toys import largest_coordinate, lion, most_distinct

from helpers import small_world
from helpers.whole_runs import adapter, check_refused, logged, ran, stated
from userdp.server import accounting
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.sim.data import masking
from userdp.sim.data.selection import Records
from userdp.sim.tracking import metric_kinds

WORDS = "the,cat,sat,on,a,mat,and,saw,my,dog,run,to,old,town"


def test_the_same_records_in_sqlite_and_in_jsonl_give_the_same_run(tmp_path):
    jsonl = ran(tmp_path / "jsonl", *REPEATABLE)
    sqlite = ran(tmp_path / "sqlite", SEARCH_PATH, *TOYS["data source"].overrides, *REPEATABLE)
    np.testing.assert_array_equal(adapter(sqlite), adapter(jsonl))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.path=none.db", "data.path=none.db: there is no such file"),
        ("data.text=subject", "data.text='subject': no such column in mail.db; there are: sender"),
        ("+data.options.sheet=1", "data.options.sheet=1"),
        ("data.options.table=post", "data.path=mail.db: no such table: post"),
    ],
)
def test_a_wrong_setting_of_the_data_ends_in_one_line(capsys, override, message):
    options = [SEARCH_PATH, *TOYS["data source"].overrides, override, "output=refused"]
    check_refused(capsys, ["run", *small_world.overrides(*options)], message)
    assert not Path("refused").exists()


def test_the_stated_epsilon_is_the_closed_form_and_above_what_is_certified(run_of):
    statement = stated(run_of("accountant")[0])
    z, delta = statement["noise_multiplier"], statement["delta"]
    rho = ROUNDS / (2 * z**2)
    closed_form = rho + 2 * math.sqrt(rho * math.log(1 / delta))
    assert statement["epsilon"] == pytest.approx(closed_form, rel=1e-5)
    event = accounting.RoundEvent(sampling_rate=1.0, noise_multiplier=z)
    assert statement["epsilon"] >= accounting.epsilon([(event, ROUNDS)], delta).upper
    assert 7.9 < statement["epsilon"] <= 8  # the noise was calibrated with this accountant


def test_an_accountant_refuses_what_it_cannot_analyse(capsys):
    sampled = small_world.overrides("privacy.accountant=toys.zcdp.ACCOUNTANT", "output=refused")
    check_refused(capsys, ["run", *sampled], "toys.zcdp.ACCOUNTANT", "no sampled cohort")
    assert not Path("refused").exists()


def test_no_other_records_have_more_distinct_tokens_than_the_selected_ones():
    """Against all subsets of as many records."""
    chance = np.random.default_rng(0)
    for _ in range(50):
        lengths = chance.integers(1, 12, chance.integers(1, 7))
        tokens = [chance.integers(-3, 6, length) for length in lengths]
        selected = most_distinct.most_distinct(Records(tokens=tokens), 2, 8, chance)
        usable = [record[:8] for record in tokens if masking.predicted(record[:8])]
        subsets = itertools.combinations(map(distinct, usable), min(2, len(usable)))
        assert sum(map(distinct, selected)) == max(map(sum, subsets))
        assert {tuple(record) for record in selected} <= {tuple(record) for record in usable}


def distinct(record: np.ndarray) -> int:
    """Number of different tokens that a record (tokens,) teaches."""
    return len({int(token) for token in record[1:] if token >= 0})


def test_a_run_trains_on_the_selected_records_alone(tmp_path):
    """Repetitive records beside a varied one change nothing at k = 1."""
    chance, options = random.Random(0), ["selection=most_distinct", "strategy.records_per_user=1"]
    texts = [" ".join(chance.sample(WORDS.split(","), 12)) for _ in range(30)]
    adapters = []
    for name, others in (("alone", []), ("among-others", ["the " * 99] * 2)):
        rows = [
            json.dumps({"user_id": f"user{number}", "text": text})
            for number, varied in enumerate(texts)
            for text in [*others, varied]
        ]
        (file := tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        run = ran(tmp_path / name, SEARCH_PATH, f"data.path={file}", *options, *REPEATABLE)
        adapters.append(adapter(run))
    np.testing.assert_array_equal(*adapters)


def test_the_steps_equal_the_formula():
    """Against the two lines of the algorithm in float64."""
    source, lr, (beta1, beta2) = np.random.default_rng(0), 0.1, (0.9, 0.99)
    gradients, weights, momentum = source.standard_normal((5, 50)), np.zeros(50), np.zeros(50)
    optimizer = ServerOptimizer(
        np.zeros(50), lambda params: lion.Lion(params, lr, (beta1, beta2)), lambda _: 1.0
    )
    for gradient in gradients:
        optimizer.step(-gradient, noise_std=1.0)
        weights -= lr * np.sign(beta1 * momentum + (1 - beta1) * gradient)
        momentum = beta2 * momentum + (1 - beta2) * gradient
    np.testing.assert_allclose(optimizer.adapter, weights, atol=1e-6)


def test_a_run_moves_every_weight_by_whole_steps(run_of):
    """The second factors of LoRA start at zero, so they hold the sum of the steps alone."""
    folder, lr = run_of("server optimiser")[0], 0.001
    tensors = safetensors.numpy.load_file(folder / "adapter" / "adapter_model.safetensors")
    steps = np.concatenate([tensors[name].ravel() for name in tensors if "lora_B" in name]) / lr
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert set(np.round(np.abs(steps)).tolist()) == {1, ROUNDS}


def test_every_node_answers_one_message_a_round_and_one_before_the_first(run_of):
    _, printed = run_of("runtime")
    answers = [line for line in printed.splitlines() if line.startswith("node ")]
    assert answers == [f"node {2 + node} answered {ROUNDS + 1} messages" for node in range(NODES)]


def test_the_run_does_not_depend_on_the_runtime(tmp_path):
    runs = [
        ran(tmp_path / name, SEARCH_PATH, f"runtime={name}", f"runtime.nodes={NODES}", *REPEATABLE)
        for name in ("in_process", "counting")
    ]
    np.testing.assert_array_equal(*map(adapter, runs))


def test_every_round_has_the_metric_and_it_lies_between_root_mean_square_and_norm(run_of):
    folder = run_of("metric")[0]
    rows = [row for row in logged(folder) if "release_norm" in row]
    assert [row["round"] for row in rows] == list(range(1, ROUNDS + 1))
    root = math.sqrt(adapter(folder).size)
    for row in rows:
        assert row["release_norm"] / root <= row[largest_coordinate.NAME] <= row["release_norm"]
    assert "the largest coordinate of every noised mean" in stated(folder)["released"]


def test_the_metric_is_released_and_no_other_kind():
    name, figure = largest_coordinate.NAME, {largest_coordinate.NAME: 1.0}
    assert metric_kinds.typed(figure, {}, keep=False) == figure
    with pytest.raises(ValueError, match="is released, not simulation_only"):
        metric_kinds.typed({}, figure, keep=True)
    with pytest.raises(ValueError, match="declared already, as released"):
        metric_kinds.declare(name, metric_kinds.Metric(metric_kinds.Kind.PUBLIC))
