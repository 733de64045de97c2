"""Loading a base model, and the gradients and leaves of its stacked adapters."""

from __future__ import annotations

import pytest
import tokenizers
import torch
import transformers

from helpers import families, tiny, tiny_classes
from helpers.cohort_sums import relative_error, setting
from userdp.clients.batching import packing
from userdp.clients.checkpoints import base_model
from userdp.clients.models import language_model
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.common.errors import ConfigurationError

CPU = torch.device("cpu")


def saved_causal(folder, family):
    """Save a tiny causal model and a tokenizer into the folder."""
    tiny.base_model(family).save_pretrained(folder)
    words = {f"w{i}": i for i in range(tiny.VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_causal_checkpoint_gets_a_head_that_depends_on_the_seed_alone(family, tmp_path):
    saved_causal(tmp_path, family)

    def head(seed):
        base, _, drawn = base_model.load(
            tmp_path, revision=None, dtype=torch.float32, device=CPU, classes=4, seed=seed
        )
        assert drawn
        return base.score.weight.detach()

    first = head(1)
    assert first.shape == (4, 16)
    assert torch.equal(first, head(1))
    assert not torch.equal(first, head(2))
    assert 0.01 < float(first.std()) < 0.04  # as the family initialises it


def test_loading_leaves_the_global_generator_unchanged(tmp_path):
    saved_causal(tmp_path, "gpt2")
    before = torch.get_rng_state()
    options = {"revision": None, "dtype": torch.float32, "device": CPU}
    base_model.load(tmp_path, classes=2, **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert not base_model.load(tmp_path, **options)[2]  # a whole checkpoint: nothing is drawn


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no causal language model"):
        base_model.load(tmp_path, revision=None, dtype=torch.float32, device=CPU)


def test_a_model_without_its_tokenizer_is_refused_by_what_is_missing(tmp_path):
    transformers.LlamaForCausalLM(tiny_classes.config("llama")).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="its tokenizer cannot be loaded; save"):
        base_model.load(tmp_path, revision=None, dtype=torch.float32, device=CPU)


def test_next_token_prediction_needs_a_causal_model():
    config = tiny_classes.config("roberta")
    config.initializer_range = 0.2
    base = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ConfigurationError, match="sees later ones"):
        LanguageModel(base, LoraSettings(r=2, alpha=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-4, 1.0])
def test_a_small_model_that_is_not_causal_is_refused_whatever_the_size_of_its_logits(size, dtype):
    base = families.build("bert", "CAUSAL_LM").to(dtype)
    head = base.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight * size)  # no longer tied to the embeddings
    head.bias.data *= size
    with pytest.raises(ConfigurationError, match="sees later ones"):
        LanguageModel(base, LoraSettings(r=2, alpha=4))


def test_the_vocabulary_is_what_can_be_read_and_predicted():
    """Mllama reads eight tokens more than it predicts: as targets they would end the process."""
    model = LanguageModel(families.build("mllama", "CAUSAL_LM"), LoraSettings(r=2))
    assert model.vocabulary == families.VOCABULARY
    assert language_model.vocabulary(model.module) == families.VOCABULARY + 8


def test_lanes_that_share_an_adapter_have_the_gradients_of_lanes_with_copies_of_it():
    model, adapter = setting()
    [stack] = packing.stacks(tiny.ragged_units(4), 10**6)
    batch = model.load(stack)
    shared, _ = model.gradients(adapter, batch)
    copies, _ = model.gradients(adapter.repeat(len(batch.lanes), 1), batch)
    assert relative_error(shared, copies) < 1e-6
    assert all(leaf.stride(0) == 0 for leaf in model.leaves(adapter, 3))


def test_a_next_token_model_has_no_class_logits():
    model, adapter = setting()
    [stack] = packing.stacks(tiny.ragged_units(1), 10**6)
    with pytest.raises(TypeError, match="no class logits"):
        model.class_logits(adapter, model.load(stack))
