"""A transformers tokenizer as the corpora use it: batches of texts in, closed token lists out."""

from __future__ import annotations

from typing import Any

from sim import cache


class TokenizerEncode:
    """Turns texts into the token ids a model sees; meets ``sim.corpus.Encode``.

    Special tokens are those the tokenizer itself puts around a text, and the end-of-text token
    after it where there is one. Spelled-out special tokens inside a text are ordinary characters:
    no user can write one. ``name`` is a fingerprint of the whole tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
        self.name = cache.fingerprint(type(tokenizer).__name__, tokenizer.eos_token_id, content)

    def __call__(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts, return_attention_mask=False, split_special_tokens=True, verbose=False
        )
        return [self._closed(ids) for ids in encoded["input_ids"]]

    def _closed(self, ids: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]
