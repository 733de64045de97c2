"""A quantised base is what transformers makes of it, trains as in plain peft, and is told apart."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from helpers import family_oracle, tiny, tiny_classes
from helpers.quantized import library
from userdp.clients.batching import packing
from userdp.clients.evaluation import plain_peft
from userdp.clients.models import acceleration, export, isolation_probe, replica
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.quantization import quantization
from userdp.clients.quantization.quantized_linear import QuantizedLinear
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.sweep import shared_inputs

CPU = torch.device("cpu")
LORA = LoraSettings(r=2, alpha=4)
KINDS = ["int8", "fp8", "nf4"]
DTYPES = [torch.float32, torch.bfloat16]
LOGITS = {torch.float32: 1e-5, torch.bfloat16: 0.03}  # distance to plain peft's, relative


def needs(kind):
    library(quantization.KINDS[kind].library)


def wide(family="llama"):
    """A base whose linear layers hold blocks of 64 numbers in whole rows, and most of its bytes."""
    kind = {"llama": transformers.LlamaConfig, "gpt2": transformers.GPT2Config}[family]
    shared = {"vocab_size": tiny.VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 2}
    shared |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "hidden_size": 64}
    shared |= {"intermediate_size": 128} if family == "llama" else {"n_positions": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(kind(**shared))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def quantized(kind, base, drawn=()):
    needs(kind)
    return base, quantization.quantize(base, kind, drawn, CPU)


def held(base):
    return {path for path, layer in base.named_modules() if isinstance(layer, QuantizedLinear)}


def gradients(model, unit):
    [stack] = packing.stacks([unit], 10**6, model.shapes)
    return model.gradients(model.initial + 0.1, model.load(stack))[0]


def in_plain_transformers(folder, base, told, dtype):
    """The same model from a folder, quantised by transformers' own loader.

    In float32 bitsandbytes does not multiply exactly on a CPU, so the weights that it holds are
    multiplied by torch there.
    """
    base.save_pretrained(folder)
    plain = plain_peft.load_base(
        str(folder), revision=None, dtype=dtype, device=CPU, classes=None, quantized=told
    ).eval()
    inexact = dtype == torch.float32 and not quantization.KINDS[told.kind].exact
    return plain.dequantize() if inexact else plain


def test_nf4_in_float32_is_refused_by_what_its_library_gives(tmp_path):
    """Should this fail, bitsandbytes has become exact, and float32 can be allowed."""
    saved = wide()
    base, told = quantized("nf4", copy.deepcopy(saved))
    saved.save_pretrained(tmp_path)
    options = {"revision": None, "dtype": torch.float32, "device": CPU, "classes": None}
    plain = plain_peft.load_base(str(tmp_path), quantized=told, **options).eval()
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    theirs, ours = (one.model.layers[0].self_attn.q_proj for one in (plain, base))
    with torch.no_grad():
        assert float((theirs(rows) - ours(rows)).norm() / ours(rows).norm()) > 1e-4
    with pytest.raises(ConfigurationError, match=r"nf4.*does not multiply in float32"):
        quantization.check("nf4", torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_those_of_the_model_that_transformers_quantises(tmp_path, kind, dtype):
    base = wide().to(dtype)
    saved = copy.deepcopy(base)
    base, told = quantized(kind, base)
    plain = in_plain_transformers(tmp_path, saved, told, dtype)
    tokens = torch.arange(20)[None] % tiny.VOCABULARY
    with torch.no_grad():
        got, wanted = (one(input_ids=tokens).logits.float() for one in (base, plain))
        unquantized = saved(input_ids=tokens).logits.float()
    assert float((got - wanted).norm() / wanted.norm()) < LOGITS[dtype]
    if dtype == torch.float32:
        assert float((unquantized - wanted).norm() / wanted.norm()) > 100 * LOGITS[dtype]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_lanes_are_those_of_plain_peft_over_the_quantised_base(tmp_path, kind):
    """Oracle: transformers quantises, peft adapts, and autograd goes through the library."""
    saved = wide()
    base, told = quantized(kind, copy.deepcopy(saved))
    plain = in_plain_transformers(tmp_path, saved, told, torch.float32)
    model = LanguageModel(base, LORA)
    family_oracle.check_equal(model, plain, "CAUSAL_LM")
    with pytest.raises(AssertionError, match="off"):
        family_oracle.check_equal(model, saved, "CAUSAL_LM")  # another base: the oracle sees it


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_adapter_has_its_losses_in_plain_peft_over_the_quantised_base(tmp_path, kind):
    saved = wide()
    base, told = quantized(kind, copy.deepcopy(saved))
    plain = in_plain_transformers(tmp_path / "base", saved, told, torch.float32)
    model = LanguageModel(base, LORA)
    adapter = model.initial + 0.3 * torch.randn(
        len(model.initial), generator=torch.Generator().manual_seed(1)
    )
    export.save(model, adapter.numpy(), tmp_path / "adapter", base="some/base")
    record = np.arange(3, 20)
    wanted = plain_peft.losses(plain, tmp_path / "adapter", [record])
    [stack] = packing.stacks([[record]], 10**6, model.shapes)
    got = float(model.token_losses(adapter, model.load(stack)).double().sum())
    np.testing.assert_allclose(got, wanted[0], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_float32_and_the_head_embeddings_and_norms_keep_their_precision(kind):
    base, told = quantized(kind, wide().to(torch.bfloat16))
    assert told.kept == ("lm_head",)
    assert told.dtype == "bfloat16"
    assert type(base.lm_head) is nn.Linear
    assert {tensor.dtype for tensor in base.parameters()} == {torch.bfloat16}
    model = LanguageModel(base, LORA)
    assert model.next_token.head.weight is base.lm_head.weight
    rows = gradients(model, [np.arange(3, 12)])
    assert rows.dtype == torch.float32
    assert float(rows.abs().sum()) > 0
    assert len(held(base)) == 14  # of two layers


def nbytes(base):
    return sum(tensor.nbytes for tensor in (*base.parameters(), *base.buffers()))


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.5), ("fp8", 0.5), ("nf4", 0.25)])
def test_the_bytes_of_the_layers_shrink_to_those_of_the_codes_and_a_few_scales(kind, share):
    base = wide().to(torch.bfloat16)
    layers = [layer for layer in base.modules() if type(layer) is nn.Linear][:-1]
    before, rest = sum(layer.weight.nbytes for layer in layers), nbytes(base)
    rest -= before
    del layers
    quantized(kind, base)
    after = nbytes(base) - rest
    assert share * before < after < (share + 0.07) * before


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_has_the_gradients_and_the_digests_of_its_original(kind):
    model = LanguageModel(quantized(kind, wide())[0], LORA)
    copied = replica.replica(model, CPU, {})
    unit = [np.arange(3, 12)]
    assert torch.equal(gradients(copied, unit), gradients(model, unit))
    assert copied.base_digest() == model.base_digest()
    mine, theirs = ({id(t) for t in one.module.buffers()} for one in (model, copied))
    assert mine == theirs  # on one device the codes are shared
    around = shared_inputs.copy_around(quantized(kind, wide())[0])
    assert LanguageModel(around, LORA).base_digest() == model.base_digest()


def digests(kind=None, seed=0):
    base = tiny.base_model("llama", seed)
    if kind is not None:
        quantized(kind, base)
    model = LanguageModel(base, LORA)
    return model.base_digest(), model.weights_digest()


def test_digests_depend_on_the_kind_and_the_weights_alone():
    for kind in ("int8", "fp8"):
        needs(kind)
    found = [digests(), digests("int8"), digests("fp8"), digests("int8", seed=1)]
    for each in zip(*found, strict=True):
        assert len(set(each)) == len(found)
    assert digests("int8") == found[1]


def test_one_changed_code_or_scale_changes_the_digests():
    model = LanguageModel(quantized("int8", tiny.base_model("llama"))[0], LORA)
    first = next(layer for layer in model.module.modules() if isinstance(layer, QuantizedLinear))
    found = {model.weights_digest()}
    first.codes[0, 0] ^= 1
    found.add(model.weights_digest())
    first.scale[0] *= 2
    found.add(model.weights_digest())
    assert len(found) == 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_isolation_probe_passes_with_the_quantised_base(kind, dtype):
    model = LanguageModel(quantized(kind, wide().to(dtype))[0], LORA)
    got = isolation_probe.probe(model, 24)
    if dtype == torch.bfloat16:
        assert got.rounding == 0
    assert got.content <= 1e-6


def test_the_isolation_probe_sees_scales_that_a_batch_chooses(monkeypatch):
    """What the documentation forbids: inputs in 8 bits, under one scale of the whole stack."""
    model = LanguageModel(quantized("int8", wide())[0], LORA)
    plain = nn.functional.linear

    def rounded(x, *rest):
        step = x.detach().abs().amax() / 127
        return plain((x / step).round() * step, *rest)

    isolation_probe.probe(model, 24)
    monkeypatch.setattr(nn.functional, "linear", rounded)
    with pytest.raises(ConfigurationError, match="mixes users"):
        isolation_probe.probe(model, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_gradient(kind):
    model = LanguageModel(quantized(kind, wide())[0], LORA)
    unit = [np.arange(3, 20)]
    before = gradients(model, unit)
    acceleration.checkpoint(model.module, on=True)
    torch.testing.assert_close(gradients(model, unit), before)


@pytest.mark.slow
@pytest.mark.trust
@pytest.mark.parametrize("kind", KINDS)
def test_compilation_changes_gradients_by_rounding_alone(kind):
    model = LanguageModel(quantized(kind, wide())[0], LORA)
    unit = [np.arange(3, 20)]
    before = gradients(model, unit)
    acceleration.compile_layers(model.module, True, backend="aot_eager")
    torch.testing.assert_close(gradients(model, unit), before, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_model_of_conv1d_layers_alone_is_refused_by_what_takes_them(kind):
    with pytest.raises(ConfigurationError, match=r"gpt2\).*Conv1D, which nf4 alone takes"):
        quantized(kind, wide("gpt2"))


def test_nf4_takes_conv1d_as_transformers_does(tmp_path):
    saved = wide("gpt2")
    base, told = quantized("nf4", copy.deepcopy(saved))
    assert len(held(base)) == 8
    plain = in_plain_transformers(tmp_path, saved, told, torch.float32)
    family_oracle.check_equal(LanguageModel(base, LORA), plain, "CAUSAL_LM")


def test_heads_and_layers_that_are_trained_whole_are_not_quantised():
    needs("int8")
    for family, drawn, kept in (
        ("llama", (), {"score"}),
        ("roberta", ("roberta.encoder.layer.1.output.dense.weight",), None),
    ):
        base = tiny_classes.base_model(family)
        told = quantization.quantize(base, "int8", drawn, CPU)
        expected = kept or {
            *("classifier.dense", "classifier.out_proj"),
            "roberta.encoder.layer.1.output.dense",
        }
        assert set(told.kept) == expected
        LanguageModel(base, LORA, tiny_classes.CLASSES, drawn)


def test_layers_that_the_adapter_leaves_out_are_quantised_too():
    base, _ = quantized("int8", wide())
    model = LanguageModel(base, LoraSettings(r=2, alpha=4, targets=["q_proj"]))
    assert len(held(model.module)) == 14
    assert gradients(model, [np.arange(3, 12)]).shape[1] == 2 * 2 * (64 + 64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_library_is_told_with_the_extra_that_installs_it(monkeypatch, kind):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=rf"model\.quantize={kind}: .*userdp\[quantize\]"):
        quantization.check(kind, torch.bfloat16)


def test_a_weight_without_finite_codes_is_refused_by_its_layer():
    """Torchao gives a row of zeros the scale zero under fp8, and divides by it."""
    base = wide()
    base.model.layers[1].mlp.up_proj.weight.data[3] = 0
    with pytest.raises(ConfigurationError, match=r"layers\.1\.mlp\.up_proj.*take .*int8"):
        quantized("fp8", base)
    base = wide()
    base.model.layers[1].mlp.up_proj.weight.data[3] = 0
    quantized("int8", base)


def test_a_checkpoint_that_is_quantised_already_is_refused(tmp_path):
    saved = wide()
    _, told = quantized("int8", copy.deepcopy(saved))
    plain = in_plain_transformers(tmp_path, saved, told, torch.float32)
    with pytest.raises(ConfigurationError, match="quantised already"):
        quantization.quantize(plain, "int8", (), CPU)
