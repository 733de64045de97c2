"""Perplexities of records are computed once, cached, and recomputed when an input changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import small_world, tiny
from userdp.clients.evaluation import record_perplexity as perplexity
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim import cli
from userdp.sim.data.population import Population
from userdp.sim.run import record_perplexity

SHAPE = {"seq_len": 12, "max_tokens": 50}


def scored(folder, population, model=None, **changes):
    options = {**SHAPE, "content": population.content_digest(), "cache_folder": folder, **changes}
    model = model or tiny.language_model()
    return record_perplexity.with_perplexity(population, model, **options)


def test_a_second_run_reads_the_scores_from_disk(tmp_path, monkeypatch, capsys):
    first = scored(tmp_path, tiny.people(4))
    assert "Scoring" in capsys.readouterr().err
    again = LanguageModel(tiny.base_model("gpt2"), LoraSettings(r=3, alpha=4, seed=9))
    monkeypatch.setattr(perplexity, "scores", None)
    second = scored(tmp_path, tiny.people(4), again)  # another adapter, the same base model
    assert second.perplexity.tolist() == first.perplexity.tolist()
    assert isinstance(second.perplexity, np.memmap)
    assert "Scoring" not in capsys.readouterr().err


@pytest.mark.parametrize("change", ["record", "owner", "weights", "seq_len", "device"])
def test_a_change_of_what_the_scores_depend_on_recomputes_them(tmp_path, monkeypatch, change):
    lists = {"a": [[1, 2, 3], [4, 5, 6]], "b": [[7, 8]]}
    scored(tmp_path, Population.of(lists))
    if change == "record":
        lists["b"] = [[7, 9]]
    if change == "owner":
        lists = {"a": lists["a"][:1], "b": [lists["a"][1], *lists["b"]]}
    model = None
    if change == "weights":
        model = LanguageModel(tiny.base_model("gpt2", seed=1), LoraSettings(r=2, alpha=4))
    if change == "device":
        model = LanguageModel(tiny.base_model("gpt2"), LoraSettings(r=2, alpha=4))
        model.device = torch.device("cuda")  # nothing is computed there

    def refused(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(perplexity, "scores", refused)
    shape = {"seq_len": 11} if change == "seq_len" else {}
    with pytest.raises(InterruptedError):
        scored(tmp_path, Population.of(lists), model, **shape)


def test_only_runs_that_select_by_perplexity_compute_scores_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    scorings = []
    for rule in ("longest", "high_perplexity", "low_perplexity"):
        options = [f"selection={rule}", f"output={rule}", "strategy=group_privacy", "rounds=1"]
        assert cli.main(["run", *small_world.overrides(*options)]) == 0
        scorings.append(capsys.readouterr().err.count("Scoring records"))
        assert not list((tmp_path / rule).rglob("*.npy"))
    assert scorings == [0, 1, 0]
