"""The embedded model is pre-trained once per recipe, reproducibly, and learns the public text."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from userdp.clients.models import embedded
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.data.synthetic import users

pytestmark = pytest.mark.slow  # whole runs, or a model trained anew

TINY = embedded.Recipe(tales=60, vocabulary=400, layers=1, width=32, heads=2, context=32, steps=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return embedded.ensure(tmp_path_factory.mktemp("cache"), quiet=True, recipe=TINY)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def weights(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_same_recipe_gives_the_same_files_and_leaves_the_global_generator_unchanged(
    folder, tmp_path
):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = embedded.ensure(tmp_path, quiet=True, recipe=TINY)
    assert torch.equal(before, torch.random.get_rng_state())
    assert again.name == folder.name
    assert (again / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    first, second = weights(folder), weights(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_call_does_not_train_and_another_recipe_has_another_folder(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(embedded, "pretrain", None)
    assert embedded.ensure(folder.parents[1], quiet=True, recipe=TINY) == folder
    with pytest.raises(TypeError):
        embedded.ensure(tmp_path, quiet=True, recipe=embedded.Recipe(seed=1, tales=10, steps=1))
    assert list((tmp_path / "models").iterdir()) == []


def test_pretraining_lowers_the_loss(folder, tokenizer):
    """30 steps on public text bring held-out public text well below the uniform distribution."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor(TokenizerEncode(tokenizer)(users.public_text(0)[-9:])[0][:32])[None]
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss < math.log(len(tokenizer)) - 0.5


def test_the_model_has_the_shape_of_its_recipe_and_the_tokenizers_end_token(folder, tokenizer):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    assert (config.n_layer, config.n_embd, config.n_positions) == (1, 32, 32)
    assert config.eos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 400
