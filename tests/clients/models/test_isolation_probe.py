"""Lanes side by side equal the same lanes alone, or the model is refused by name."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers

from helpers import families, tiny, tiny_classes
from helpers.cohort_sums import clipped
from userdp.clients.models import isolation_probe
from userdp.clients.models.isolation_probe import probe
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.common.errors import ConfigurationError

LORA = LoraSettings(r=2, alpha=4)
DTYPES = [torch.float32, torch.bfloat16]
MIXES = "mixes users"


def language_model(dtype=torch.float32, family="llama"):
    return LanguageModel(tiny.base_model(family).to(dtype), LORA)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_the_measured_rounding_is_that_of_the_precision(family, dtype):
    """Of a few layers in float32, at least a small part of one unit in the last place.

    Stacks in bfloat16 have fixed shapes: nothing moves there, bit by bit.
    """
    got = probe(language_model(dtype, family), 24)
    unit = torch.finfo(dtype).eps
    if dtype == torch.float32:
        assert 0.01 * unit < got.rounding < 10 * unit
    else:
        assert got.rounding == 0
    assert got.content <= 10 * torch.finfo(torch.float32).eps
    assert got.lengths == (9, 24)


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
def test_classifiers_are_probed_with_their_heads(kind):
    got = probe(LanguageModel(tiny_classes.base_model(kind), LORA, classes=3), 16)
    assert 0 < got.rounding < 1e-5


def over_rows(leak):
    """Adds ``leak`` times the mean over the rows to a layer's output."""
    return lambda output: output + leak * output.mean(0, keepdim=True)


def by_longest(leak):
    """Scales a layer's output by the padded length of the stack."""
    return lambda output: output * (1 + leak * (output.shape[1] > 12))


def by_rows(leak):
    """Scales a layer's output by the number of rows."""
    return lambda output: output * (1 + leak * len(output))


def next_row(leak):
    """Adds the row behind, in the manner of a capacity that is shared."""
    return lambda output: output + leak * output.roll(1, 0)


def planted(change, dtype):
    """A model whose first block's output is changed so."""
    model = language_model(dtype)
    block = model.module.model.layers[0]
    block.register_forward_hook(lambda _, __, output: change(output))
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("leak", [1e-2, 0.3])
@pytest.mark.parametrize("change", [over_rows, by_longest, by_rows, next_row])
def test_a_planted_leak_is_refused_in_both_precisions(change, leak, dtype):
    with pytest.raises(ConfigurationError, match=MIXES):
        probe(planted(change(leak), dtype), 24)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_planted_leak_refuses_passes_without_it(dtype):
    """The leaks are what is refused, and not the hook; its smallest is far above the rounding."""
    got = probe(planted(lambda output: output, dtype), 24)
    assert got.rounding <= 1e-5
    assert got.content <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_leak_of_content_is_seen_below_the_rounding_of_bfloat16(dtype, monkeypatch):
    """Without the float32 copy too: what has the same shapes is compared exactly."""
    monkeypatch.setattr(isolation_probe, "_copy_fits", lambda _: False)
    with pytest.raises(ConfigurationError, match=MIXES):
        probe(planted(over_rows(0.02), dtype), 24)


class Shrinking(torch.autograd.Function):
    """Changes no output, and shrinks every gradient by the number of rows beside it."""

    @staticmethod
    def forward(ctx, output):
        return output.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 - 0.01 * len(gradient))


def scaled(model):
    """The model with a scale on all gradients: a hook on the input of its frozen head."""
    model.module.model.register_forward_hook(
        lambda _, __, output: type(output)(last_hidden_state=Shrinking.apply(output[0]))
    )
    return model


def test_a_leak_that_changes_the_size_of_an_update_alone_is_refused():
    """Directions, which a small clip norm leaves, are equal; at a larger one sums still move."""
    model = scaled(language_model())
    units = tiny.ragged_units(2)
    alone, beside = (clipped(model, model.initial, units[:n]).total for n in (1, 2))
    other = clipped(model, model.initial, units[1:]).total
    assert np.linalg.norm(beside - other - alone) > 1e-3  # C is 1
    with pytest.raises(ConfigurationError, match=MIXES):
        probe(model, 24)


def test_a_leak_that_special_tokens_alone_open_is_refused():
    model = language_model()
    tokens = []
    model.module.model.register_forward_pre_hook(
        lambda _, __, given: tokens.append(given["input_ids"]), with_kwargs=True
    )
    model.module.config.mask_token_id = 57

    def change(_, __, output):
        return output * (1 + 0.1 * ((tokens[-1] == 57).float().mean() > 0.06))

    probe(model, 24)
    model.module.model.layers[0].register_forward_hook(change)
    with pytest.raises(ConfigurationError, match=MIXES):
        probe(model, 24)


def test_a_leak_that_needs_many_rows_is_refused():
    """As a capacity of experts that a few texts never fill."""
    with pytest.raises(ConfigurationError, match=MIXES):
        probe(planted(lambda output: output * (1 + 0.1 * (len(output) > 40)), torch.float32), 24)


def test_state_that_a_text_leaves_behind_is_refused():
    model = language_model()
    seen = []

    def change(_, __, output):
        seen.append(output.shape[1])
        return output * (1 + 0.1 * (max(seen) > 12))

    model.module.model.layers[0].register_forward_hook(change)
    with pytest.raises(ConfigurationError, match=MIXES):
        probe(model, 24)


def test_lanes_with_adapters_of_their_own_are_compared_as_well(monkeypatch):
    """A fault that only separate adapters show, as local steps have them."""
    model = language_model()
    leaves = LanguageModel.leaves

    def mixed(self, adapters, lanes):
        if adapters.dim() == 2 and len(adapters) > 1:
            adapters = adapters.roll(1, 0)
        return leaves(self, adapters, lanes)

    monkeypatch.setattr(LanguageModel, "leaves", mixed)
    with pytest.raises(ConfigurationError, match=MIXES):
        probe(model, 16)


def long_rope(original=16):
    """A Phi-3 whose padded length picks the factors of its positions."""
    half = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_type": "longrope"}
    return families.build(
        "phi3", "CAUSAL_LM", rope_parameters={**half, "rope_theta": 10000.0},
        original_max_position_embeddings=original, sliding_window=None,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_factors_that_the_longest_text_picks_are_refused_beyond_their_threshold_only(dtype):
    model = LanguageModel(long_rope().to(dtype), LORA)
    probe(model, 17)  # 16 positions
    for seq_len in (18, 40):
        with pytest.raises(ConfigurationError, match=rf"phi3.*{MIXES}"):
            probe(model, seq_len)


def test_thresholds_of_the_configuration_are_crossed():
    config = families.config("gemma3_text")
    assert isolation_probe._lengths(config, 40) == [10, 40]  # a window of 8 positions
    nested = transformers.PreTrainedConfig(attention_window=[12, 20], rope={"original_max": 30})
    assert isolation_probe._lengths(nested, 50) == [14, 22, 32, 50]
    assert isolation_probe._lengths(nested, 25) == [14, 22, 25]
    assert isolation_probe._lengths(nested, 9) == []
    many = transformers.PreTrainedConfig(
        layers_config=[{"n_ctx": 9}, {"chunk": 100}], window=list(range(12, 40, 2))
    )
    assert isolation_probe._lengths(many, 64) == [11, *range(14, 42, 2), 64]  # none is left out


def test_weights_that_are_not_finite_are_refused():
    base = tiny.base_model("llama")
    base.model.layers[0].self_attn.q_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ConfigurationError, match="not finite"):
        probe(LanguageModel(base, LORA), 16)


def test_an_error_of_the_models_own_code_is_one_line():
    model = language_model()

    def fail(*_):
        raise KeyError("first\nsecond")

    model.module.model.layers[0].register_forward_hook(fail)
    with pytest.raises(ConfigurationError, match="KeyError") as refusal:
        probe(model, 16)
    assert "\n" not in str(refusal.value)


def test_the_probe_changes_nothing():
    """Gradients, random state and the module's weights are those of before."""
    model, again = language_model(), language_model()
    state = torch.get_rng_state()
    probe(model, 24)
    assert torch.equal(torch.get_rng_state(), state)
    adapter = model.initial + 0.1
    units = tiny.ragged_units(4)
    np.testing.assert_array_equal(
        clipped(model, adapter, units).total, clipped(again, adapter, units).total
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_clipped_update_moves_by_no_more_than_a_few_times_the_measured_rounding(dtype):
    """Of other units than the probe's: the figure is one to state."""
    model = language_model(dtype)
    bound = 4 * probe(model, 24).rounding
    adapter = copy.deepcopy(model.initial) + 0.1
    units = tiny.ragged_units(8)
    tiny_norm = {"clip_norm": 1e-6}
    whole = clipped(model, adapter, units, **tiny_norm).total
    for left_out in range(8):
        rest = units[:left_out] + units[left_out + 1 :]
        moved = whole - clipped(model, adapter, rest, **tiny_norm).total
        assert np.linalg.norm(moved) <= 1e-6 * (1 + 8 * bound)
