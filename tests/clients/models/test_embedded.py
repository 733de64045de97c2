import math

import pytest
import torch
import transformers

from userdp.clients.models import embedded
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.data.synthetic import users

TINY = embedded.Recipe(tales=60, vocabulary=400, layers=1, width=32, heads=2, context=32, steps=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return embedded.ensure(tmp_path_factory.mktemp("cache"), quiet=True, recipe=TINY)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def weights(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_same_recipe_gives_the_same_files_and_leaves_the_global_generator_alone(
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


def test_pretraining_learns(folder, tokenizer):
    """30 steps on public text bring held-out public text well below the uniform distribution."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor(TokenizerEncode(tokenizer)(users.public_text(0)[-9:])[0][:32])[None]
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss < math.log(len(tokenizer)) - 0.5


@pytest.mark.parametrize(
    "text", ["pls call Zoper :)", "ünï ☃ \x00 \t 漢字", "“The tide,” said Ada."]
)
def test_every_text_survives_the_tokenizer(tokenizer, text):
    ids = TokenizerEncode(tokenizer)([text])[0]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False) == text


def test_nobody_can_write_the_end_of_text(tokenizer):
    ids = TokenizerEncode(tokenizer)([f"a{embedded.END}b", "", "c"])
    assert [record.count(tokenizer.eos_token_id) for record in ids] == [1, 1, 1]
    assert TokenizerEncode(tokenizer)([]) == []


def test_the_name_is_the_tokenizers_fingerprint(folder, tokenizer, tmp_path):
    reloaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert TokenizerEncode(reloaded).name == TokenizerEncode(tokenizer).name
    texts = users.public_text(0)[:30]
    other = embedded.train_tokenizer(texts, TINY)
    assert TokenizerEncode(other).name != TokenizerEncode(tokenizer).name
    in_memory = embedded.train_tokenizer(users.public_text(0)[: TINY.tales], TINY)
    assert TokenizerEncode(in_memory)(texts) == TokenizerEncode(tokenizer)(texts)


def test_the_model_is_the_shape_of_its_recipe_and_shares_its_end_token(folder, tokenizer):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    assert (config.n_layer, config.n_embd, config.n_positions) == (1, 32, 32)
    assert config.eos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 400
