"""Continuations equal an independent token-by-token computation, and leave no trace."""

from __future__ import annotations

import copy

import numpy as np
import peft
import pytest
import torch
import transformers

from helpers import small_world, tiny
from userdp.clients.generation import sample, sampling, side_by_side
from userdp.clients.generation.sampling import Sampling
from userdp.clients.tokenization import prompts as prompt_ids
from userdp.sim.common.errors import ConfigurationError

PROMPTS = [[5, 6, 7], [8, 9], [1, 2, 3, 4], [8, 9], [10, 11]]
GREEDY = Sampling(tokens=12, temperature=0)
STOP = 13


def argmax_by_argmax(model, prompt, tokens, stops=()):
    """Oracle: plain forward passes over the whole text, without cache, batch or generate."""
    ids = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        token = int(logits.argmax())
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_texts_are_those_of_plain_forward_passes(family, rows):
    model = tiny.base_model(family)
    got = sampling.continuations(model, PROMPTS, GREEDY, stops={STOP}, rows=rows)
    assert got == [argmax_by_argmax(model, prompt, 12, {STOP}) for prompt in PROMPTS]
    assert len({tuple(row) for row in got}) > 1


def test_a_text_ends_before_the_token_that_ends_it():
    model = tiny.base_model("gpt2")
    [whole] = sampling.continuations(model, PROMPTS[:1], GREEDY, stops=set())
    assert len(whole) == 12
    stop = whole[5]
    [cut] = sampling.continuations(model, PROMPTS[:1], GREEDY, stops={stop})
    assert cut == whole[: whole.index(stop)]


def test_the_models_own_generation_settings_do_not_count_and_stay():
    model = tiny.base_model("gpt2")
    plain = sampling.continuations(model, PROMPTS, GREEDY, stops={STOP})
    model.generation_config.update(
        repetition_penalty=9.0, no_repeat_ngram_size=1, max_length=4, suppress_tokens=plain[0][:1]
    )
    kept = copy.deepcopy(model.generation_config)
    assert sampling.continuations(model, PROMPTS, GREEDY, stops={STOP}) == plain
    assert model.generation_config == kept


def test_draws_have_the_probabilities_of_the_model():
    """The first token of many texts against softmax(logits / T), and against the nucleus."""
    model, count = tiny.base_model("gpt2"), 4000
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].double()
    wanted = torch.softmax(logits / 0.7, 0).numpy()
    for top_p in (1.0, 0.5):
        one = Sampling(tokens=1, temperature=0.7, top_p=top_p, seed=3)
        drawn = sampling.continuations(model, [[5, 6, 7]] * count, one, stops=set(), rows=1000)
        counts = np.bincount([row[0] for row in drawn], minlength=len(wanted))
        order = np.argsort(-wanted)
        inside = order[: int(np.searchsorted(np.cumsum(wanted[order]), top_p)) + 1]
        expected = np.zeros_like(wanted)
        expected[inside] = wanted[inside] / wanted[inside].sum()
        assert set(np.flatnonzero(counts)) <= set(inside)
        assert np.abs(counts / count - expected).max() < 5 * (0.25 / count) ** 0.5


def test_a_seed_repeats_texts_and_another_gives_others():
    model = tiny.base_model("gpt2")

    def drawn(seed):
        return sampling.continuations(model, PROMPTS, Sampling(tokens=8, seed=seed), stops={STOP})

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_the_state_of_torchs_generator_is_neither_read_nor_changed():
    model, kept = tiny.base_model("gpt2"), []
    for start in (0, 99):
        with torch.random.fork_rng():
            torch.manual_seed(start)
            before = torch.random.get_rng_state()
            kept.append(sampling.continuations(model, PROMPTS, Sampling(seed=4), stops={STOP}))
            assert torch.equal(torch.random.get_rng_state(), before)
    assert kept[0] == kept[1]


def test_texts_stay_inside_the_context_and_a_prompt_without_room_is_refused():
    model = tiny.base_model("gpt2")  # of 64 positions
    [row] = sampling.continuations(model, [[5] * 60], Sampling(tokens=50), stops=set())
    assert len(row) == 4
    with pytest.raises(ConfigurationError, match="prompt 2: it has 64 tokens and the model reads"):
        sampling.continuations(model, [[5], [5] * 64], GREEDY, stops=set())


def test_prompts_are_spread_over_the_count():
    assert sample.spread(["a", "b"], 5) == ["a", "b", "a", "b", "a"]
    assert sample.spread([], 2) == ["", ""]


# Both sides, through peft and the tokenizer.


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(small_world.model())


def adapted():
    """The small world's base model, apart, and in peft with an adapter that changes it."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    base, inside = load(small_world.model()).eval(), load(small_world.model())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(inside, peft.LoraConfig(r=4, target_modules=["c_attn", "c_fc"]))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=2.0)
    return base, model.eval()


@pytest.mark.parametrize("sampled", [GREEDY, Sampling(tokens=12, seed=5)])
def test_the_base_side_is_the_base_model_without_peft(tokenizer, sampled):
    base, model = adapted()
    prompts = ["the cat", "", "my dog saw the town"]
    found = side_by_side.samples(model, tokenizer, prompts, sampled, chat=False)
    assert [one.prompt for one in found] == prompts
    ids = [prompt_ids.ids(tokenizer, prompt) for prompt in prompts]
    plain = sampling.continuations(base, ids, sampled, stops={tokenizer.eos_token_id})
    assert [one.base for one in found] == [tokenizer.decode(row) for row in plain]
    assert [one.adapter for one in found] != [one.base for one in found]
    assert found == side_by_side.samples(model, tokenizer, prompts, sampled, chat=False)


def test_the_adapters_side_is_the_merged_model(tokenizer):
    _, model = adapted()
    ids = prompt_ids.ids(tokenizer, "the cat")
    [text] = side_by_side.texts(model, tokenizer, ["the cat"], GREEDY, chat=False)
    merged = model.merge_and_unload()
    stops = {tokenizer.eos_token_id}
    assert text == tokenizer.decode(argmax_by_argmax(merged, ids, GREEDY.tokens, stops))


# Prompts.

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_no_text_is_the_token_before_a_text(tokenizer):
    assert prompt_ids.ids(tokenizer, "") == [tokenizer.eos_token_id]
    assert prompt_ids.ids(tokenizer, "", chat=True) == [tokenizer.eos_token_id]


def test_a_plain_prompt_spells_no_special_token(tokenizer):
    ids = prompt_ids.ids(tokenizer, "a<|end|>b")
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == "a<|end|>b"


def test_a_chat_prompt_is_the_templates(tokenizer):
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TEMPLATE
    ids = prompt_ids.ids(chatty, "the cat", chat=True)
    assert chatty.decode(ids) == "[user]the cat<|end|>[assistant]"
    with pytest.raises(ConfigurationError, match="spells a special token"):
        prompt_ids.ids(chatty, "a<|end|>b", chat=True)
    with pytest.raises(ConfigurationError, match="no chat template"):
        prompt_ids.ids(tokenizer, "the cat", chat=True)
