"""The default run can be read: known words in known order, in the users' manner, without secrets.

The oracle of `helpers.readable` is made of the corpora. The base model before version 2, trained
with noise in its tokens, has 0.75 known words and 0.44 known pairs.
"""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers

from helpers import readable
from userdp.clients.models import embedded
from userdp.sim import cli
from userdp.sim.data.synthetic import users

pytestmark = [pytest.mark.slow, pytest.mark.trust]  # the default run, with its pre-training

PROMPTS = ("", "i'm", "whats the", "The")  # the first: begin of text
COUNT = 50  # samples of each


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of the base model, folder of the run)."""
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USERDP_CACHE", str(root / "cache"))
        assert cli.main(["run", f"output={root / 'run'}", "eval_every=1000", "device=cpu"]) == 0
    return embedded.ensure(root / "cache", quiet=True), root / "run"


@pytest.fixture(scope="module")
def before(run):
    return samples(run[0], transformers.AutoModelForCausalLM.from_pretrained(run[0]))


@pytest.fixture(scope="module")
def after(run):
    base = transformers.AutoModelForCausalLM.from_pretrained(run[0])
    return samples(run[0], peft.PeftModel.from_pretrained(base, run[1] / "adapter"))


def samples(folder, model) -> dict[str, list[str]]:
    """Texts by prompt, of at most 48 tokens more, temperature 0.8 and top-p 0.95."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = {}
    for number, prompt in enumerate(PROMPTS):
        start = [tokenizer.eos_token_id, *tokenizer(prompt)["input_ids"]]
        ids = torch.tensor([start] * COUNT)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            drawn = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=0.8,
                top_p=0.95,
                top_k=0,
                max_new_tokens=48,
                pad_token_id=tokenizer.eos_token_id,
            )
        texts[prompt] = [tokenizer.decode(row[1:], skip_special_tokens=True) for row in drawn]
    return texts


def every(texts: dict[str, list[str]]) -> list[str]:
    return [text for drawn in texts.values() for text in drawn]


def test_both_write_words_that_exist_in_an_order_that_exists(before, after):
    assert readable.known_share(every(before), 1) > 0.95
    assert readable.known_share(every(before), 2) > 0.93
    assert readable.known_share(every(after), 1) > 0.93
    assert readable.known_share(every(after), 2) > 0.8


def test_the_adapter_writes_as_the_private_users_do(before, after):
    begin = [
        readable.informal_share([text or "-" for text in texts[""]]) for texts in (before, after)
    ]
    assert begin[1] > begin[0] + 0.25


def test_no_secret_of_any_user_is_written(after):
    assert readable.secrets_in(every(after), seed=0) == set()


def test_perplexity_on_other_users_falls_to_less_than_half(run):
    last = json.loads((run[1] / "metrics.jsonl").read_text().splitlines()[-1])
    before, after = (last[f"summary/heldout_perplexity{when}"] for when in ("_before", ""))
    assert after < 0.5 * before


def test_the_oracles_tell_text_from_noise_and_find_a_secret_that_is_written():
    unseen = [text for number in range(9) for text in users.user_records(1, number)]
    shuffled = [" ".join(sorted(text.split())) for text in unseen]
    assert readable.known_share(unseen, 2) > 0.95
    assert readable.known_share(shuffled, 2) < 0.6
    texts = [text for number in range(40) for text in users.user_records(0, number)]
    assert len(readable.secrets_in(texts, seed=0)) > 20
    assert readable.secrets_in(texts, seed=1) == set()
