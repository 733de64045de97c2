"""Inputs shared by the runs of a process: loaded once, and no run changes another's."""

from __future__ import annotations

import contextlib
import shutil
import weakref
from dataclasses import replace

import pytest
import torch

from helpers import small_world, tiny
from userdp.clients.batching import packing
from userdp.clients.models import isolation_probe
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.config import hydra_compose
from userdp.sim.inputs import corpus_loading, run_inputs
from userdp.sim.run import base_score, finish, node_setup, prepare, time_estimate
from userdp.sim.sweep import jobs, launcher, shared_inputs, sweep
from userdp.sim.sweep.shared_inputs import SharedInputs

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def asked(*overrides: str):
    return hydra_compose.settings(small_world.overrides(*overrides))[0]


def counted(monkeypatch, module, name: str) -> list:
    """The calls of a function from now on."""
    calls, before = [], getattr(module, name)

    def called(*given, **named):
        calls.append(given)
        return before(*given, **named)

    monkeypatch.setattr(module, name, called)
    return calls


def test_runs_that_differ_in_the_adapter_share_records_weights_and_scores(monkeypatch):
    bases = counted(monkeypatch, run_inputs, "load_base")
    corpora = counted(monkeypatch, corpus_loading, "load")
    scores = counted(monkeypatch, base_score, "_stored")
    load = SharedInputs().load
    settings = [asked(f"seed={seed}", f"model.lora.r={r}") for seed in (1, 2) for r in (1, 3)]
    ready = [prepare.prepare(one, load) for one in settings]
    assert len({base_score.score(one) for one in ready}) == 1
    assert (len(bases), len(corpora), len(scores)) == (1, 1, 1)
    pointers = {
        tuple(tensor.data_ptr() for tensor in one.inputs.model.module.parameters()) for one in ready
    }
    assert len(pointers) == 1


def living(bases: list) -> int:
    return sum(base() is not None for base in bases)


def followed(monkeypatch, **drawn: tuple[str, ...]) -> list[weakref.ref]:
    """The base models that are loaded from now on; none may live when another is loaded."""
    bases, before = [], run_inputs.load_base

    def load(*asked):
        assert living(bases) == 0
        found = replace(before(*asked), **drawn)
        bases.append(weakref.ref(found.module))
        return found

    monkeypatch.setattr(run_inputs, "load_base", load)
    return bases


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [(), ("score.weight",)])
def test_one_base_model_is_in_memory_at_a_time(monkeypatch, tmp_path, drawn):
    """Another model, and another seed where weights are drawn from it; none at the end."""
    other = shutil.copytree(small_world.model(), tmp_path / "other")
    bases, shared = followed(monkeypatch, drawn=drawn), SharedInputs()
    for place in (small_world.model(), other):
        for seed in (1, 2):
            for r in (1, 2):
                own = [f"model.path={place}", f"seed={seed}", f"model.lora.r={r}"]
                prepare.prepare(asked(*own), shared.load)
    assert len(bases) == (4 if drawn else 2)
    assert living(bases) == 1
    shared.free()
    assert living(bases) == 0


def test_a_model_is_probed_for_isolation_once_for_its_check_and_its_run(monkeypatch):
    """Once more where anything differs that the probe depends on, and where tensors are others."""
    probed, shared = [], SharedInputs()
    monkeypatch.setattr(isolation_probe, "probe", lambda *given: probed.append(given))
    variants = [
        [],
        ["model.lora.r=3"],
        ["model.lora.targets=[attn.c_attn]"],
        ["seed=5"],
        ["model.seq_len=12"],
        ["engine.checkpointing=true"],
    ]
    for _ in range(2):
        for variant in variants:
            prepare.prepare(asked(*variant), shared.load)
    assert len(probed) == len(variants)
    shared.free()  # what is loaded next may be another model of the same name
    prepare.prepare(asked(), shared.load)
    assert len(probed) == len(variants) + 1
    run_inputs.fit_engine(asked(), probed[0][0])
    assert len(probed) == len(variants) + 2


def test_a_complete_head_is_loaded_once_for_all_seeds(monkeypatch):
    bases, shared = followed(monkeypatch, drawn=()), SharedInputs()
    plain = asked().model
    kept = {id(shared._load_base(plain, "cpu", 2, seed)) for seed in (1, 2, 3)}
    assert (len(bases), len(kept)) == (1, 1)


@pytest.mark.parametrize("crash", [False, True])
def test_a_sweep_leaves_no_model_in_memory(monkeypatch, crash):
    bases = followed(monkeypatch)
    if crash:
        monkeypatch.setattr(jobs, "write_index", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) if crash else contextlib.nullcontext():
        sweep.run(small_world.overrides("seed=1,2", "rounds=1", "output=mine"))
    assert len(bases) == 1
    assert living(bases) == 0


@pytest.mark.slow
def test_workers_of_another_launcher_find_the_memory_free(monkeypatch):
    bases, met = followed(monkeypatch), []
    monkeypatch.setattr(launcher, "launch", lambda *_: met.append(living(bases)) or [])
    other = "hydra.launcher._target_=hydra_plugins.elsewhere.OtherLauncher"
    for number, own in enumerate([[], ["hydra/launcher=basic"], [other]]):
        sweep.run(small_world.overrides("seed=1,2", f"output=grid-{number}", *own))
    assert met == [1, 1, 0]


def test_perplexities_and_the_probe_are_computed_once(monkeypatch):
    load = SharedInputs().load
    ready = [
        prepare.prepare(asked(f"seed={seed}", "selection=low_perplexity"), load) for seed in (1, 2)
    ]
    digests = counted(monkeypatch, LanguageModel, "base_digest")
    gradients = counted(monkeypatch, LanguageModel, "gradients")
    minutes, passes = set(), []
    for one in ready:
        minutes.add(time_estimate.minutes(one.settings, one.plan, one.inputs, one.engine))
        passes.append(len(gradients))
    scored = [node_setup.host(one.settings, one.inputs, one.engine).population for one in ready]
    assert scored[0] is scored[1]
    assert len(minutes) == len(digests) == 1
    assert passes[0] == passes[1] > 0  # the time of a position is measured once


def test_other_data_and_another_length_share_no_score():
    load = SharedInputs().load
    ready = [
        prepare.prepare(asked(*own), load)
        for own in ([], ["data.holdout=0.5"], ["model.seq_len=8"], [])
    ]
    scores = [base_score.score(one) for one in ready]
    assert scores[0] == scores[3]
    assert len(set(scores)) == 3
    assert scores[1:3] == [
        finish.score(one, one.inputs.model.initial.numpy()) for one in ready[1:3]
    ]


def test_the_losses_of_single_records_are_kept_for_simulations_alone(monkeypatch, tmp_path):
    """A strict run and a simulation beside it, which needs them, share a process and a disk."""
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    load, scores = SharedInputs().load, []
    for on in (False, True, False):
        settings = asked("data.split=record", f"track.simulation_only={str(on).lower()}")
        scores.append(base_score.score(prepare.prepare(settings, load)))
        assert (scores[-1].records is not None) == on
        assert bool(list(tmp_path.rglob("records.npz"))) == (len(scores) > 1)
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_an_adapter_built_around_shared_tensors_is_the_one_built_into_its_own(family):
    """Two adapters of other shapes around one base: each computes as one built in alone."""
    base = tiny.base_model(family)
    built = [LoraSettings(r=1, seed=3), LoraSettings(r=2, targets=["down_proj", "c_fc"], seed=4)]
    if family == "gpt2":
        built[1] = LoraSettings(r=2, targets=["c_fc"], seed=4)
    around = [LanguageModel(shared_inputs.copy_around(base), settings) for settings in built]
    alone = [LanguageModel(tiny.base_model(family), settings) for settings in built]
    [stack] = packing.stacks([tiny.ragged_units(3)[0]], 512)
    for ours, theirs in zip(around, alone, strict=True):
        torch.testing.assert_close(ours.initial, theirs.initial, rtol=0, atol=0)
        given = ours.initial + 0.1
        for one, other in zip(
            ours.gradients(given, ours.load(stack)),
            theirs.gradients(given, theirs.load(stack)),
            strict=True,
        ):
            assert torch.equal(one, other)
    assert base.state_dict().keys() == tiny.base_model(family).state_dict().keys()
