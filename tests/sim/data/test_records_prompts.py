"""Prompts and conversations: from a file to token ids, of which only the answers are learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

from helpers import small_world
from userdp.clients.tokenization import chat_template as chat
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.data import loading, masking
from userdp.sim.data.sources.registry import SOURCES

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}"
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHOOSY = "{{ raise_exception('no') if messages[0].role == 'system' }}" + CHATML
TALK = [
    {"role": "user", "content": "saw my dog?"},
    {"role": "assistant", "content": "the cat sat"},
    {"role": "user", "content": "on a mat"},
    {"role": "assistant", "content": "öld town ☃"},
]


def small_tokenizer(template=CHATML):
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world.model())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def written(folder: Path, rows) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"who": "ada", **row}) + "\n" for row in rows))
    return path


def loaded(path: Path, encode, **changes):
    columns = {"user": "who", **changes.pop("columns", {"text": "said", "prompt": "asked"})}
    values = {"format": "jsonl", "path": str(path), "holdout": 0.0, **changes}
    settings = loading.CorpusSettings(columns=loading.Columns(**columns), **values)
    return loading.load(SOURCES.find(settings.format), settings, encode, path.parent / "cache")


def parts(tokenizer, record):
    """(what is given, what is learned) of a record, as text."""
    ids = masking.tokens(record)
    return tokenizer.decode(ids[record < 0]), tokenizer.decode(ids[record >= 0])


def test_a_prompt_comes_first_and_is_given_and_the_text_is_learned_to_its_end(tmp_path):
    rows = [
        {"asked": "my dog? ", "said": "sat on a mat"},
        {"asked": "", "said": "the cat"},
        {"asked": "öld ☃", "said": "run"},
    ]
    tokenizer = small_tokenizer()
    corpus = loaded(written(tmp_path, rows), TokenizerEncode(tokenizer))
    records = corpus.train.records(0)
    assert len(records) == 3
    for row, record in zip(rows, records, strict=True):
        end = tokenizer.eos_token
        assert parts(tokenizer, record) == (row["asked"], row["said"] + end)
        assert (record < 0).tolist() == sorted(record < 0, reverse=True)  # the prompt comes first
        prompt, text = tokenizer(row["asked"])["input_ids"], tokenizer(row["said"])["input_ids"]
        assert masking.tokens(record).tolist() == [*prompt, *text, tokenizer.eos_token_id]


class Bounded:
    """A tokenizer with tokens of its own around every text."""

    eos_token_id, chat_template = 2, None

    def get_vocab(self):
        return {}

    def __call__(self, texts, add_special_tokens=True, **_):
        around = ([1], [2]) if add_special_tokens else ([], [])
        return {"input_ids": [[*around[0], *map(ord, text), *around[1]] for text in texts]}


def test_special_tokens_stand_at_the_ends_and_not_between_prompt_and_text():
    encode = TokenizerEncode(Bounded())
    assert encode.prompted([("a", "b"), ("", "c")]) == [[~1, ~97, 98, 2], [~1, 99, 2]]
    assert encode(["a"]) == [[1, 97, 2]]


def test_the_prompt_column_is_part_of_the_cache_key(tmp_path):
    path = written(tmp_path, [{"asked": "my", "said": "dog", "other": "the"}])
    tokenizer = small_tokenizer()
    encode = TokenizerEncode(tokenizer)
    for columns, prompt in (({}, ""), ({"prompt": "asked"}, "my"), ({"prompt": "other"}, "the")):
        corpus = loaded(path, encode, columns={"text": "said", **columns})
        assert parts(tokenizer, corpus.train.records(0)[0])[0] == prompt


def test_a_chat_template_is_part_of_a_tokenizers_name():
    assert TokenizerEncode(small_tokenizer()).name != TokenizerEncode(small_tokenizer(MARKED)).name


@pytest.mark.parametrize("template", [CHATML, MARKED])
@pytest.mark.parametrize("talk", [TALK, TALK[:2], [{"role": "system", "content": "run"}, *TALK]])
def test_a_conversation_has_the_templates_ids_and_the_assistants_turns_are_learned(template, talk):
    tokenizer = small_tokenizer(template)
    signed = np.array(chat.encode(tokenizer, talk))
    plain = tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"]
    assert masking.tokens(signed).tolist() == plain
    learned = "".join(m["content"] + "<|im_end|>\n" for m in talk if m["role"] == "assistant")
    assert tokenizer.decode(masking.tokens(signed)[signed >= 0]) == learned


@pytest.mark.parametrize("template", [CHATML, MARKED])
@pytest.mark.parametrize("given", [1, 2, 3])
def test_of_a_prompt_of_messages_nothing_is_learned_whoever_speaks(tmp_path, template, given):
    tokenizer = small_tokenizer(template)
    path = written(tmp_path, [{"prompt": TALK[:given], "completion": TALK[given:]}])
    columns = {"chat": "completion", "prompt": "prompt"}
    [record] = loaded(path, TokenizerEncode(tokenizer), columns=columns).train.records(0)
    plain = tokenizer.apply_chat_template(TALK, return_dict=True)["input_ids"]
    assert masking.tokens(record).tolist() == plain
    learned = "".join(m["content"] + "<|im_end|>\n" for m in TALK[given:] if m["role"] != "user")
    assert parts(tokenizer, record)[1] == learned


def test_both_ways_to_find_the_assistants_turns_agree():
    assert chat.encode(small_tokenizer(), TALK) == chat.encode(small_tokenizer(MARKED), TALK)


def test_jsonl_and_parquet_hold_the_same_conversations(tmp_path):
    tokenizer, rows = small_tokenizer(), [{"talk": TALK}, {"talk": TALK[:2]}]
    lines = written(tmp_path, rows)
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"who": "ada", **row} for row in rows]), table)
    columns = {"chat": "talk"}
    first = loaded(lines, TokenizerEncode(tokenizer), columns=columns).train
    second = loaded(table, TokenizerEncode(tokenizer), columns=columns, format="parquet").train
    assert first.tokens.tolist() == second.tokens.tolist()
    assert first.tokens.tolist() == [
        *chat.encode(tokenizer, TALK),
        *chat.encode(tokenizer, TALK[:2]),
    ]


BAD = [
    ({"said": "dog", "asked": 3}, "prompt is not text"),
    ({"said": "dog"}, "empty prompt"),
    ({"said": " ", "asked": "MARKER"}, "empty text"),
]
BAD_TALK = [
    ("MARKER", "chat is not a list of messages"),
    ([], "chat is not a list of messages"),
    (["MARKER"], "chat is not a list of messages"),
    ([{"role": "assistant", "content": 5}], "content of a message is not text"),
    ([{"content": "MARKER"}], "empty role of a message"),
    ([{"role": "user", "content": "MARKER"}], "chat without a message of the assistant"),
    ([TALK[0], {"role": "assistant", "content": "<|im_end|>"}], "a message spells a special token"),
    ([{"role": "system", "content": "MARKER"}, *TALK], "the chat template refuses the messages"),
]
BAD_PROMPT = [
    ("MARKER", "prompt is not a list of messages"),
    (None, "prompt is not a list of messages"),
    ([{"role": "user"}], "empty content of a message"),
]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        *BAD,
        *(({"talk": talk}, reason) for talk, reason in BAD_TALK),
        *(({"talk": TALK, "before": prompt}, reason) for prompt, reason in BAD_PROMPT),
    ],
)
def test_what_is_no_record_is_counted_by_reason_or_refused_without_a_quote(tmp_path, bad, reason):
    columns = {"chat": "talk"} if "talk" in bad else {"text": "said", "prompt": "asked"}
    columns |= {"prompt": "before"} if "before" in bad else {}
    fine = {"said": "the cat", "asked": "sat", "talk": TALK, "before": TALK}
    path, encode = written(tmp_path, [fine, bad]), TokenizerEncode(small_tokenizer(CHOOSY))
    assert loaded(path, encode, columns=columns).dropped == {reason: 1}
    with pytest.raises(ValueError, match=f"line 2: {reason}") as caught:
        loaded(path, encode, columns=columns, strict=True)
    assert "MARKER" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [(None, "data.chat: .*no chat template"), (FORGETFUL, "data.chat: .*differently once others")],
)
def test_a_tokenizer_that_cannot_chat_is_refused(tmp_path, template, message):
    encode = TokenizerEncode(small_tokenizer(template))
    with pytest.raises(ConfigurationError, match=message) as caught:
        loaded(written(tmp_path, [{"talk": TALK}]), encode, columns={"chat": "talk"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"text": "a", "chat": "b"}, {}, "data.text='a' with data.chat='b'"),
        ({}, {}, "data.text=None with data.chat=None"),
        ({"chat": "b", "prompt": "p"}, {}, "data.prompt='p': no such column"),
        ({"chat": "b"}, {"format": "csv"}, "data.chat='b'.*csv"),
        ({"text": "said", "prompt": "p"}, {}, "data.prompt='p': no such column"),
        ({"chat": "b"}, {}, "data.chat='b': no such column"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, columns, changes, message):
    path = written(tmp_path, [{"said": "the cat"}])
    with pytest.raises(ConfigurationError, match=message):
        loaded(path, TokenizerEncode(small_tokenizer()), columns=columns, **changes)


def test_naming_a_chat_column_takes_the_place_of_the_text_column():
    for name in ("jsonl", "parquet", "hub"):
        shared = [f"data={name}", "data.path=x"]
        assert hydra_compose.settings(shared)[0].data.text == "text"
        data = hydra_compose.settings([*shared, "data.chat=talk"])[0].data
        assert (data.text, data.chat) == (None, "talk")
