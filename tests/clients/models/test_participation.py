"""The adapter gets the layers that take part with rows first, and is told of the others."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from helpers import families, family_oracle, tiny
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.common.errors import ConfigurationError

RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}


def adapted(model):
    """Paths of the adapted layers."""
    return {
        name.partition(".lora_")[0].removeprefix("base_model.model.")
        for name, _ in model.layout.shapes
        if ".lora_" in name
    }


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_layers_that_texts_do_not_reach_are_left_out_and_named(caplog, targets):
    base = families.build("bart", "CAUSAL_LM")
    with caplog.at_level(logging.WARNING, logger="userdp"):
        layers = adapted(LanguageModel(base, LoraSettings(r=2, targets=targets)))
    assert layers
    assert not any("encoder_attn" in path for path in layers)
    assert "encoder_attn" in caplog.text


def test_of_a_multimodal_model_the_text_tower_is_adapted():
    layers = adapted(LanguageModel(families.build("gemma3", "CAUSAL_LM"), LoraSettings(r=2)))
    assert layers
    assert all("language_model" in path for path in layers)


@pytest.mark.parametrize("share", [True, False])
def test_layers_that_read_a_table_without_rows_are_left_out(share):
    base = families.build("deberta-v2", "SEQ_CLS", share_att_key=share, **RELATIVE)
    layers = adapted(LanguageModel(base, LoraSettings(r=2), classes=3))
    assert any(path.endswith("value_proj") for path in layers)
    assert not any("pos_" in path for path in layers)
    assert any(path.endswith("self.query_proj") for path in layers) != share


def test_a_named_layer_that_reads_a_table_without_rows_is_refused():
    base = families.build("deberta-v2", "SEQ_CLS", share_att_key=True, **RELATIVE)
    with pytest.raises(ConfigurationError, match=r"targets=.*query_proj: its input has no rows"):
        LanguageModel(base, LoraSettings(r=2, targets=["query_proj", "value_proj"]), classes=3)


def test_a_layer_whose_weight_is_read_without_a_call_is_left_out():
    base = families.build("mamba", "CAUSAL_LM")
    layers = adapted(LanguageModel(base, LoraSettings(r=2)))
    assert {path.rpartition(".")[2] for path in layers} == {"in_proj", "x_proj"}
    with pytest.raises(ConfigurationError, match="none of these layers can be adapted"):
        LanguageModel(families.build("mamba", "CAUSAL_LM"), LoraSettings(r=2, targets=["out_proj"]))


def test_a_model_whose_layers_all_take_part_keeps_its_targets_as_they_were():
    base = tiny.base_model("llama")
    model = LanguageModel(copy.deepcopy(base), LoraSettings(r=2))
    wanted = {
        path
        for path, layer in base.named_modules()
        if isinstance(layer, torch.nn.Linear) and path != "lm_head"
    }
    assert adapted(model) == wanted
    assert not model.peft_config.target_parameters


CASES = [
    ("falcon", "CAUSAL_LM", {}),  # adds in place to the output of a layer
    ("mixtral", "CAUSAL_LM", {}),  # experts that peft wraps
    ("deepseek_v3", "CAUSAL_LM", {}),
    ("gemma3", "CAUSAL_LM", {}),
    ("mamba", "CAUSAL_LM", {}),
    ("esm", "SEQ_CLS", {}),
    ("distilbert", "SEQ_CLS", {}),  # peft trains a layer whole whose name ends as a head's
    ("deberta-v2", "SEQ_CLS", {"share_att_key": True, **RELATIVE}),
    ("longformer", "SEQ_CLS", {}),  # time comes first in its attention
    ("big_bird", "SEQ_CLS", {}),
]


@pytest.mark.parametrize(("family", "task", "changes"), CASES, ids=[case[0] for case in CASES])
def test_families_that_were_wrong_once_equal_plain_peft(family, task, changes):
    got = family_oracle.verdict(family, task, **changes)
    assert got.outcome == "trained", got.detail


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("prophetnet", "CAUSAL_LM"),
        ("bert", "CAUSAL_LM"),
        ("xlnet", "CAUSAL_LM"),
        ("reformer", "CAUSAL_LM"),
        ("convbert", "SEQ_CLS"),
        ("bart", "SEQ_CLS"),
    ],
)
def test_families_that_cannot_be_right_are_refused_by_name(family, task):
    got = family_oracle.verdict(family, task)
    assert got.outcome == "refused"
    assert got.detail.startswith("model.")
    assert "\n" not in got.detail
