"""Whole runs over a quantised base: claim, resume, verify, devices, nodes, saved adapter."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers

from helpers import quantized, small_world, whole_runs
from helpers.cohort_sums import relative_error
from userdp.clients.quantization import quantization
from userdp.clients.quantization.quantized_linear import QuantizedLinear
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.config import hydra_compose
from userdp.sim.inputs import run_inputs
from userdp.sim.run import prepare

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    quantized.library("torchao")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def ran(folder, *more):
    return whole_runs.ran(folder, *quantized.overrides(*more))


def header(folder):
    return ledger.verify(folder / "ledger.jsonl").header


def inputs(*more):
    overrides = small_world.overrides(*quantized.overrides(*more))
    return run_inputs.build(hydra_compose.settings(overrides)[0])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("int8", "float32"), ("int8", "bfloat16"), ("fp8", "bfloat16"), ("nf4", "bfloat16")],
)
def test_a_run_names_its_quantised_base_everywhere_and_verifies(kind, dtype):
    quantized.library(quantization.KINDS[kind].library)
    folder = ran("run", f"model.quantize={kind}", f"model.dtype={dtype}", "rounds=1")
    assert header(folder)["base_quantized"] == kind
    told = [item for item in whole_runs.stated(folder)["assumptions"] if "quantised" in item]
    assert len(told) == 1
    assert f"quantised to {kind}" in told[0]
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["auto_mapping"] == {"base_model_quantization": kind}
    assert f"| base_quantized | {kind} |" in (folder / "adapter" / "README.md").read_text()
    assert cli.main(["verify", "run"]) == 0


def test_the_cards_code_loads_the_adapter_with_the_logits_of_the_run(world):
    folder = ran("run", "optimizer.lr=0.3")
    shutil.copytree(quantized.llama(), world / "llama")
    card = (folder / "adapter" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]
    names = {}
    exec(code.replace("path/of/this/folder", str(folder / "adapter")), names)
    tokens = torch.arange(3, 19)[None]
    with torch.no_grad():
        wanted = names["model"](input_ids=tokens).logits
    model = inputs().model
    values = torch.from_numpy(whole_runs.adapter(folder)[_order(model)])
    with torch.no_grad(), model._adapted(model.leaves(values, 1)):
        got = model.module(input_ids=tokens).logits
    assert relative_error(got, wanted) < 1e-5
    plain = transformers.AutoModelForCausalLM.from_pretrained("llama")
    with torch.no_grad():
        assert relative_error(plain(input_ids=tokens).logits, wanted) > 1e-3


def _order(model):
    """Places of the layout's tensors in the adapter sorted by name."""
    parts = {name: part for (name, _), (part, _) in zip(
        model.layout.shapes, model.layout.parts(), strict=True
    )}  # fmt: skip
    sorted_places = np.concatenate([np.arange(*parts[n].indices(10**9)) for n in sorted(parts)])
    return np.argsort(sorted_places)


def test_an_interrupted_run_goes_on_with_the_same_base_alone(capsys):
    whole_runs.stopped("run", 2, *quantized.overrides("rounds=3"))
    capsys.readouterr()
    for other in ("null", "fp8"):
        line = whole_runs.check_refused(
            capsys, ["run", "resume=run", f"model.quantize={other}"], "resume"
        )
        assert "quantize" in line
    assert cli.main(["run", "resume=run"]) == 0
    assert cli.main(["verify", "run"]) == 0


def test_a_run_that_says_it_was_not_quantised_does_not_verify(capsys):
    folder = ran("run", "rounds=1")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("quantize: int8", "quantize: null"))
    capsys.readouterr()
    assert cli.main(["verify", "run"]) != 0
    assert "base_quantized" in capsys.readouterr().err


def test_a_run_without_it_has_no_word_of_it():
    folder = ran("run", "model.quantize=null", "rounds=1")
    assert "base_quantized" not in header(folder)
    for name in ("privacy_statement.json", "adapter/README.md", "adapter/adapter_config.json"):
        assert "quanti" not in (folder / name).read_text()


@pytest.mark.parametrize(
    "more",
    [
        ["device=cpu,cpu"],
        ["engine.checkpointing=true"],
        pytest.param(["runtime=ray", "runtime.nodes=2"], marks=pytest.mark.trust, id="ray"),
    ],
    ids=lambda more: more[0],
)
def test_the_released_adapter_does_not_depend_on_where_it_is_computed(more):
    exact = ["privacy.reproducible=true", "rounds=1", "optimizer=sgd"]
    wanted = whole_runs.adapter(ran("one", *exact))
    np.testing.assert_allclose(
        whole_runs.adapter(ran("other", *exact, *more)), wanted, rtol=1e-4, atol=1e-6
    )


def test_selection_by_perplexity_scores_the_quantised_base(monkeypatch):
    from userdp.sim.run import record_perplexity

    seen, whole = [], record_perplexity.with_perplexity

    def watched(population, model, **options):
        seen.append(sum(isinstance(part, QuantizedLinear) for part in model.module.modules()))
        return whole(population, model, **options)

    monkeypatch.setattr(record_perplexity, "with_perplexity", watched)
    ran("run", "selection=high_perplexity", "rounds=1")
    assert seen == [14]


def test_a_node_of_another_process_quantises_as_the_server_does():
    overrides = small_world.overrides(*quantized.overrides())
    settings, _ = hydra_compose.settings(overrides)
    prepared = prepare.prepare(settings)
    node = run_inputs.build(settings)
    assert node.model.base_digest() == prepared.inputs.model.base_digest()
    assert node.model.base_digest() != inputs("model.quantize=null").model.base_digest()


def test_what_cannot_be_is_refused_in_one_line(capsys, monkeypatch):
    for more, told in (
        (["model.quantize=int3"], ["model.quantize=int3"]),
        ([f"model.path={small_world.model()}"], ["model.quantize=int8", "Conv1D"]),
        (["model.quantize=nf4"], ["model.quantize=nf4", "model.dtype=bfloat16"]),
    ):
        whole_runs.check_refused(
            capsys, ["run", *small_world.overrides(*quantized.overrides(*more))], *told
        )
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: None if name == "torchao" else found(name)
    )
    line = ["run", *small_world.overrides(*quantized.overrides())]
    whole_runs.check_refused(capsys, line, "torchao is not installed", "userdp[quantize]")
