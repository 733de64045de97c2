"""The exported folder is an ordinary peft adapter with the token losses of the trained one."""

from __future__ import annotations

import json

import numpy as np
import peft
import pytest
import torch

from helpers import tiny
from userdp.clients.batching.packing import stacks
from userdp.clients.models import export
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings

FAMILIES = ["gpt2", "llama", "opt", "gpt_neox", "qwen2", "qwen3", "gemma2"]


def trained(family, targets="all-linear"):
    model = LanguageModel(tiny.base_model(family), LoraSettings(r=3, alpha=5, targets=targets))
    generator = torch.Generator().manual_seed(4)
    return model, model.initial + 0.2 * torch.randn(model.layout.size, generator=generator)


def plain_losses(folder, family, record):
    """Oracle: token losses of plain peft, from the exported folder alone."""
    loaded = peft.PeftModel.from_pretrained(tiny.base_model(family), str(folder)).eval()
    ids = torch.tensor(record)
    with torch.no_grad():
        logits = loaded(input_ids=ids[None]).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_the_folder_and_gives_the_same_token_losses(family, tmp_path):
    model, adapter = trained(family)
    export.save(model, adapter.numpy(), tmp_path, base="some/base")
    record = np.arange(2, 16)
    [stack] = stacks([[record]], 100)
    got = model.token_losses(adapter, model.load(stack))
    wanted = plain_losses(tmp_path, family, record)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    untrained = model.token_losses(model.initial, model.load(stack))
    assert (got - untrained).abs().max() > 0.01  # the adapter matters


def test_the_configuration_names_base_shape_and_targets(tmp_path):
    model, adapter = trained("gpt2", targets=["c_attn"])
    export.save(model, adapter.numpy(), tmp_path / "new" / "folder", base="some/base")
    config = json.loads((tmp_path / "new" / "folder" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/base"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 5, 0.0)
    assert config["target_modules"] == ["c_attn"]
    assert config["inference_mode"] is True


def test_nothing_but_the_adapter_and_its_configuration_is_written(tmp_path):
    model, adapter = trained("gpt2")
    export.save(model, adapter.numpy(), tmp_path, base="some/base")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json"}
