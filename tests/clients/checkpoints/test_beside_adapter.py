"""The tokenizer beside an adapter is the base model's, without traces of its last call."""

from __future__ import annotations

import json

import transformers

from helpers import small_world
from userdp.clients.checkpoints import beside_adapter


def test_a_saved_tokenizer_has_no_truncation_or_padding_of_its_last_call(tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world.model())
    tokenizer.chat_template = "{{ messages }}"
    tokenizer(["the cat sat", "on"], truncation=True, max_length=2, padding=True)
    before = tokenizer.backend_tokenizer.to_str()
    beside_adapter.save_tokenizer(tokenizer, tmp_path / "adapter")
    stored = json.loads((tmp_path / "adapter" / "tokenizer.json").read_text())
    assert (stored["truncation"], stored["padding"]) == (None, None)
    assert tokenizer.backend_tokenizer.to_str() == before  # the one in use is as it was
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert saved.chat_template == "{{ messages }}"
    texts = ["the cat sat", "", "naïve 漢字 <|end|>", "a  b\n\n"]
    assert saved(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert not [path for path in tmp_path.rglob("*") if str(small_world.model()) in path.name]


def test_a_copied_base_is_the_same_model(tmp_path):
    beside_adapter.copy_base(small_world.model(), tmp_path / "base")
    for path in small_world.model().iterdir():
        assert (tmp_path / "base" / path.name).read_bytes() == path.read_bytes()
