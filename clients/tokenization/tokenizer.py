"""A transformers tokenizer as the corpora use it: texts in, signed token lists out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from userdp.clients.tokenization import chat_template
from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import masking
from userdp.sim.data.corpus import Labelled, Message


class TokenizerEncode:
    """Turns texts into the token ids a model sees; meets ``userdp.sim.data.corpus.Encode``.

    Special tokens are those the tokenizer itself puts around a text, and the end-of-text token
    after it where there is one. Spelled-out special tokens inside a text are ordinary characters:
    no user can write one. ``name`` is a fingerprint of the whole tokenizer, chat template included.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
        self.name = cache.fingerprint(
            type(tokenizer).__name__, tokenizer.eos_token_id, content, tokenizer.chat_template
        )

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [self._closed(ids) for ids in self._ids(texts)]

    def prompted(self, pairs: list[tuple[str, str]]) -> list[list[int]]:
        """Prompt and text are tokenised apart, as at generation: no token spans the boundary.

        The special tokens at the front, if any, are the prompt's, and given as it is.
        """
        prompts = self._ids([prompt for prompt, _ in pairs])
        texts = self._ids([text for _, text in pairs], add_special_tokens=False)
        return [
            masking.given(self._open(prompt)) + self._closed(text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    def labelled(self, records: Sequence[Labelled], max_tokens: int) -> list[list[int]]:
        """The ids are those of the tokenizer's own call on a text or a pair, and then the class.

        Nothing closes them, so that a text gives the loaded adapter the same ids. The tokenizer
        cuts, the longer one of a pair first, and keeps its special tokens.
        """
        paired = any(record.pair is not None for record in records)
        most = max_tokens - 1  # the class takes a place
        around = self._tokenizer.num_special_tokens_to_add(pair=paired)
        if most <= around:
            raise ConfigurationError(
                f"model.seq_len={max_tokens}: {around} special tokens and the class leave no room "
                "for a text; take more."
            )
        pairs = [record.pair for record in records] if paired else None
        texts = [record.text for record in records]
        encoded = self._ids(texts, text_pair=pairs, truncation=True, max_length=most)
        return [
            [*masking.given(ids), record.label]
            for ids, record in zip(encoded, records, strict=True)
        ]

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """See `userdp.clients.tokenization.chat_template`."""
        return chat_template.encode(self._tokenizer, messages)

    def _ids(self, texts: list[str], **options: Any) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts, return_attention_mask=False, split_special_tokens=True, verbose=False, **options
        )
        return encoded["input_ids"]

    def _closed(self, ids: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]

    def _open(self, ids: list[int]) -> list[int]:
        """Without the end-of-text token that some tokenizers close every text by."""
        closed = len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id
        return ids[:-1] if closed else ids
