"""Weights that a checkpoint lacks: saved with the adapter, or refused; damaged ones: refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
import transformers

from helpers import tiny, tiny_classes
from userdp.clients.checkpoints import base_model, weights
from userdp.clients.evaluation import heldout, plain_peft
from userdp.clients.models import export
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.common.errors import ConfigurationError

CPU = torch.device("cpu")


def saved(folder, model, **how):
    model.save_pretrained(folder, **how)
    words = {f"w{i}": i for i in range(tiny.VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


def load(folder, classes=None, seed=0, dtype=torch.float32):
    return base_model.load(
        folder, revision=None, dtype=dtype, device=CPU, classes=classes, seed=seed
    )


def edited(folder, change):
    """Change the tensors of a folder's one safetensors file."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return folder


def without(folder, part):
    def remove(tensors):
        names = [name for name in tensors if part in name]
        assert names
        for name in names:
            del tensors[name]

    return edited(folder, remove)


def lacking(folder, layout, name):
    """A Llama's folder without one tensor, in one of the layouts of files that there are."""
    model = tiny.base_model("llama")
    saved(folder, model)
    if layout == "safetensors":
        return without(folder, name)
    state = {key: tensor for key, tensor in model.state_dict().items() if key != name}
    (folder / "model.safetensors").unlink()
    if layout == "bin":
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    keys = sorted(state)
    files = {"model-1.safetensors": keys[::2], "model-2.safetensors": keys[1::2]}
    for file, held in files.items():
        part = {key: state[key].contiguous() for key in held}
        safetensors.torch.save_file(part, folder / file, metadata={"format": "pt"})
    index = {key: file for file, held in files.items() for key in held}
    if layout == "index names what the shard lacks":
        index[name] = "model-1.safetensors"
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    return folder


@pytest.mark.parametrize(
    "layout", ["safetensors", "bin", "shards", "index names what the shard lacks"]
)
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
def test_a_causal_model_without_one_of_its_weights_is_refused_by_name(tmp_path, layout, name):
    with pytest.raises(ConfigurationError, match=f"model.path=.*{name}"):
        load(lacking(tmp_path, layout, name))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "opt", "gpt2"])
def test_tied_weights_are_not_lacking(tmp_path, family):
    model = tiny.base_model(family)
    base, _, drawn = load(saved(tmp_path, model))
    assert drawn == ()
    for name, tensor in model.state_dict().items():
        assert torch.equal(base.state_dict()[name], tensor)


ENCODERS = {
    "bert": (transformers.BertConfig, transformers.BertForMaskedLM, "bert.pooler.dense"),
    "distilbert": (transformers.DistilBertConfig, transformers.DistilBertForMaskedLM, "pre_class"),
    "deberta": (transformers.DebertaConfig, transformers.DebertaForMaskedLM, "pooler.dense"),
    "albert": (transformers.AlbertConfig, transformers.AlbertForMaskedLM, "albert.pooler"),
    "xlm": (transformers.XLMConfig, transformers.XLMWithLMHeadModel, "sequence_summary.summary"),
}


def masked_model(folder, family):
    """A model without the layers of a classification, as encoders are published."""
    config, kind, _ = ENCODERS[family]
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "emb_dim": 16}
    if family not in ("distilbert", "xlm"):
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 24, "embedding_size": 16}
    built = config(vocab_size=tiny.VOCABULARY, max_position_embeddings=64, pad_token_id=1, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return saved(folder, kind(built))


@pytest.mark.parametrize("targets", ["all-linear", "named"])
@pytest.mark.parametrize("family", ENCODERS)
def test_layers_that_were_drawn_are_saved_with_the_adapter(tmp_path, family, targets):
    """Oracle: plain transformers and peft, which draw the missing weights otherwise."""
    base, _, drawn = load(masked_model(tmp_path / "base", family), classes=3, seed=1)
    assert any(ENCODERS[family][2] in name for name in drawn)
    if targets == "named":
        chosen = [n for n, part in base.named_modules() if isinstance(part, torch.nn.Linear)]
        targets = [name.rpartition(".")[2] for name in chosen if "classifier" not in name]
    model = LanguageModel(base, LoraSettings(r=2, alpha=4, targets=targets), 3, drawn)
    trained = dict(model.layout.shapes)
    assert any(ENCODERS[family][2] in name and "lora" not in name for name in trained)
    assert not [name for name in trained if ENCODERS[family][2] in name and "lora" in name]
    adapter = model.initial + 0.3 * torch.randn(len(model.initial))
    export.save(model, adapter.numpy(), tmp_path / "adapter", base="some/base")
    people = tiny_classes.people(3)
    got = heldout.evaluate(model, adapter, people, seq_len=20, max_tokens=100).records.losses
    plain = plain_peft.load_base(
        str(tmp_path / "base"), revision=None, dtype=torch.float32, device=CPU, classes=3
    )
    for name in (name for name in drawn if name.endswith("weight")):  # the draws are others
        assert not torch.equal(plain.get_parameter(name), base_tensor(model, name))
    records = [record[:20] for user in range(3) for record in people.records(user)]
    wanted = plain_peft.losses(plain, tmp_path / "adapter", records)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def base_tensor(model, name):
    """The tensor that was drawn, in the layer that is trained whole."""
    return model.module.get_parameter(name.replace(".weight", ".base.weight"))


def test_a_classification_without_a_layer_of_its_body_is_refused(tmp_path):
    folder = without(masked_model(tmp_path, "bert"), "layer.0.output.dense")
    with pytest.raises(ConfigurationError, match=r"bert\.encoder\.layer\.0\.output\.dense"):
        load(folder, classes=3)


def test_a_classification_without_embeddings_is_refused(tmp_path):
    folder = without(masked_model(tmp_path, "bert"), "position_embeddings")
    with pytest.raises(ConfigurationError, match="position_embeddings"):
        load(folder, classes=3)


def test_a_head_of_other_classes_is_refused_by_both_shapes(tmp_path):
    saved(tmp_path, tiny_classes.base_model("roberta"))
    with pytest.raises(ConfigurationError, match=r"data\.classes.*classifier.*\(3.*\(5"):
        load(tmp_path, classes=5)


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    def narrow(tensors):
        name = "model.layers.0.mlp.down_proj.weight"
        tensors[name] = tensors[name][:, :-1].contiguous()

    folder = edited(saved(tmp_path, tiny.base_model("llama")), narrow)
    with pytest.raises(ConfigurationError, match=r"down_proj.*\(16, 23\).*\(16, 24\)"):
        load(folder)


def test_parts_of_an_adapter_in_a_checkpoint_are_refused(tmp_path):
    def add(tensors):
        tensors["model.layers.0.mlp.down_proj.lora_A.default.weight"] = torch.zeros(2, 24)

    folder = edited(saved(tmp_path, tiny.base_model("llama")), add)
    with pytest.raises(ConfigurationError, match="holds an adapter"):
        load(folder)


def test_layers_that_the_model_does_not_read_are_told(tmp_path, caplog):
    saved(tmp_path, tiny.base_model("llama"))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    load(tmp_path)
    assert "not read from the checkpoint" in caplog.text
    assert "model.layers.1." in caplog.text


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.self_attn.q_proj.weight"])
def test_one_value_that_is_not_finite_refuses_the_model_by_name(tmp_path, name, value):
    def damage(tensors):
        tensors[name][-1, -1] = value

    with pytest.raises(ConfigurationError, match=f"{name}.*not finite"):
        load(edited(saved(tmp_path, tiny.base_model("llama")), damage))


def test_values_beyond_bfloat16_are_refused_in_it_alone(tmp_path):
    def enlarge(tensors):
        tensors["lm_head.weight"][0, 0] = torch.finfo(torch.float32).max

    folder = edited(saved(tmp_path, tiny.base_model("llama")), enlarge)
    load(folder)
    with pytest.raises(ConfigurationError, match=r"lm_head.weight.*bfloat16.*model\.dtype"):
        load(folder, dtype=torch.bfloat16)


def test_buffers_are_held_to_what_they_are_for():
    """A mask that is computed may hold -inf; nothing may hold NaN, and nothing stored inf."""
    base = tiny.base_model("gpt2")
    base.register_buffer("mask", torch.full((2, 2), -torch.inf), persistent=False)
    weights.refuse_damaged(base, "here")
    base.mask[0, 0] = torch.nan
    with pytest.raises(ConfigurationError, match=r"model.path=here: 1 tensor \(mask\)"):
        weights.refuse_damaged(base, "here")
    base.mask = torch.zeros(2)
    base.register_buffer("scale", torch.tensor([torch.inf]))
    with pytest.raises(ConfigurationError, match=r"\(scale\)"):
        weights.refuse_damaged(base, "here")


def adapter_folder(tmp_path, base_too):
    import peft

    base = tiny.base_model("llama")
    saved(tmp_path / "base", base)
    if base_too:
        shutil.copytree(tmp_path / "base", tmp_path / "adapter")
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(base, config)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("classes", [None, 2])
@pytest.mark.parametrize("base_too", [False, True])
def test_a_folder_with_an_adapter_is_refused_and_its_base_named(tmp_path, base_too, classes):
    folder = adapter_folder(tmp_path, base_too)
    with pytest.raises(ConfigurationError, match=rf"adapter_config.json\) of {tmp_path}/base"):
        load(folder, classes=classes)
