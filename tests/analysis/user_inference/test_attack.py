"""The statistic in closed form, and the attack on whole runs: power, none, refusals."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pytest
import safetensors.numpy

from helpers import small_world, tiny
from helpers.whole_runs import check_refused, ran
from userdp.analysis.aggregates import user_inference as aggregate
from userdp.analysis.user_inference import attack, command
from userdp.clients.evaluation import heldout
from userdp.sim import cli
from userdp.sim.data.population import Population
from userdp.sim.run_folder import reader, unnoised_values
from userdp.sim.run_folder.layout import RunFolder

ATTACK = ("attack.resamples=100",)


def unigram(probabilities):
    """In place of `heldout.evaluate`: every token has a probability of its own; 0 is uniform."""

    def evaluate(model, adapter, population, *, seq_len, max_tokens):
        shares = probabilities if float(adapter[0]) else np.full(len(probabilities), 0.25)
        owned = [(u, r[:seq_len]) for u in range(len(population)) for r in population.records(u)]
        return heldout.Evaluation(
            loss=0.0,
            tokens=0,
            records=heldout.RecordScores(
                users=np.array([user for user, _ in owned]),
                losses=np.array([-np.log(shares[record[1:]]).sum() for _, record in owned]),
                tokens=np.array([len(record) - 1 for _, record in owned]),
            ),
        )

    return evaluate


def test_the_statistic_is_the_mean_over_texts_of_the_log_ratio_a_token(monkeypatch):
    monkeypatch.setattr(heldout, "evaluate", unigram(np.array([0.5, 0.25, 0.125, 0.125])))
    model = tiny.language_model()
    texts = Population.of(
        {
            "likelier": [[0, 0, 0], [0, 0]],  # each token twice as likely
            "mixed": [[3, 0, 3, 0, 3], [1, 1]],  # twice and half as likely, and the same
            "long": [[1, 0], [1, *[3] * 5]],  # a long text counts as a short one
        }
    )
    adapter = np.ones(model.layout.size, np.float32)
    monkeypatch.setattr(model, "initial", model.initial * 0)
    found = attack.statistics(model, adapter, texts, seq_len=8, max_tokens=64)
    two = math.log(2)
    assert found == pytest.approx([two, 0.0, (two - two) / 2])


def test_without_training_every_statistic_is_exactly_zero():
    model = tiny.language_model()
    people = tiny.people(6)
    initial = model.initial.numpy()
    found = attack.statistics(model, initial, people, seq_len=16, max_tokens=64)
    assert found.tolist() == [0.0] * 6
    moved = initial + np.random.default_rng(0).normal(0, 0.1, len(initial)).astype(np.float32)
    assert np.all(attack.statistics(model, moved, people, seq_len=16, max_tokens=64) != 0)


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    """A run without privacy that learned its users' texts."""
    return ran(
        tmp_path_factory.mktemp("runs") / "plain",
        *("strategy=non_private", "rounds=40", "cohort=12", "data.holdout=0.5", "seed=1"),
        "privacy.reproducible=true",
        *("strategy.records_per_user=4", "model.lora.r=16", "optimizer.lr=0.03"),
        *("eval_every=1000", "track.simulation_only=true"),
    )


def rates_of(capsys, folder) -> dict:
    assert cli.main(["attack", str(folder), "--json", *ATTACK]) == 0
    [run] = json.loads(capsys.readouterr().out)
    return run


def test_the_attack_has_power_on_a_run_that_memorised(memorised, capsys):
    run = rates_of(capsys, memorised)
    everyone = run["groups"][0]
    assert everyone["texts"] == "any"
    assert everyone["auc"] > 0.7
    assert everyone["auc_low"] > 0.5
    assert (run["simulation_only"], run["epsilon"], everyone["exceeds"]) == (True, None, None)
    assert sum(g["members"] for g in run["groups"][1:]) == everyone["members"]


def test_and_none_on_an_adapter_that_was_not_trained(memorised, tmp_path, capsys):
    """The same folder with B = 0, by which the adapter is the base model."""
    folder = shutil.copytree(memorised, tmp_path / "untrained")
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    kept = {name: t * (".lora_B" not in name) for name, t in tensors.items()}
    safetensors.numpy.save_file(kept, path)
    group = rates_of(capsys, folder)["groups"][0]
    assert (group["auc"], group["auc_low"], group["auc_high"]) == (0.5, 0.5, 0.5)
    assert group["tpr_at_10"] == 0.0


def test_the_table_and_the_file_hold_rates_of_groups_alone(memorised, capsys):
    assert cli.main(["attack", str(memorised), *ATTACK]) == 0
    printed = capsys.readouterr().out
    assert "simulation_only" in printed
    assert "non_private" in printed
    folder = RunFolder(memorised)
    with folder.user_inference.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(column.startswith("simulation_only/") for column in rows[0])
    assert 1 <= len(rows) <= 4
    [run] = reader.complete([memorised])
    [row] = aggregate.table([run])
    assert row["auc"] == float(rows[0]["simulation_only/auc"])
    folder_alone = RunFolder(memorised.parent / "alone")
    folder_alone.path.mkdir()
    shutil.copy(folder.user_inference, folder_alone.path)
    assert unnoised_values.found(folder_alone)
    for public in (folder.statement, folder.model_card):
        assert "inference" not in public.read_text()


def test_runs_that_are_not_for_simulations_are_refused_before_any_is_attacked(
    memorised, tmp_path, capsys
):
    shutil.copytree(memorised, tmp_path / "a")
    shutil.copytree(memorised, tmp_path / "b")
    config = tmp_path / "b" / "config.yaml"
    config.write_text(config.read_text().replace("simulation_only: true", "simulation_only: false"))
    (tmp_path / "a" / "user_inference.csv").unlink(missing_ok=True)
    check_refused(capsys, ["attack", str(tmp_path)], "track.simulation_only=false")
    assert not (tmp_path / "a" / "user_inference.csv").exists()


def test_what_cannot_be_attacked_is_told_in_one_line(memorised, tmp_path, capsys):
    check_refused(capsys, ["attack"], "name one folder")
    check_refused(capsys, ["attack", str(tmp_path / "none")], "no such folder")
    check_refused(capsys, ["attack", str(tmp_path)], "no complete run")
    check_refused(capsys, ["attack", str(memorised), "attack.texts=0"], "attack.texts")
    assert small_world.MARKER_TEXT  # the records of these runs
    folder = shutil.copytree(memorised, tmp_path / "damaged")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(attack.ConfigurationError, match="fits its base model"):
        command.measure([str(folder)])


@pytest.mark.slow
def test_private_rates_stay_below_their_bounds(tmp_path, capsys):
    for epsilon in (1, 8):
        ran(
            tmp_path / f"{epsilon}",
            *("rounds=20", "cohort=8", f"privacy.epsilon={epsilon}", "data.holdout=0.5"),
            *("optimizer.lr=0.03", "track.simulation_only=true", "selection=longest"),
        )
    capsys.readouterr()  # what the runs printed
    assert cli.main(["attack", str(tmp_path), "--json", *ATTACK]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert [round(run["epsilon"]) for run in runs] == [1, 8]
    for run in runs:
        group = run["groups"][0]
        assert group["texts"] == "not selected"
        assert group["exceeds"] is False
        assert group["bound_at_10"] < 1
