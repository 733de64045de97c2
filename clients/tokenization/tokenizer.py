"""Turns texts, prompted texts, labelled texts and conversations into signed token ids."""

from __future__ import annotations

import functools
from array import array
from collections.abc import MutableSequence, Sequence
from typing import Any

import numpy as np

from userdp.clients.tokenization import chat_template
from userdp.clients.tokenization.long_texts import LONG, LongTexts
from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import masking
from userdp.sim.data.corpus import Labelled, Message


class TokenizerEncode:
    """A tokenizer of transformers behind the interface `userdp.sim.data.corpus.Encode`.

    The special tokens of a record are those that the tokenizer itself puts around a text, and the
    end-of-text token after it if the tokenizer has one. A special token that is spelled out in a
    text is tokenized as ordinary characters, so no user can write one.

    Attributes:
        name: fingerprint of the whole tokenizer, chat template included.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
        self.name = cache.fingerprint(
            type(tokenizer).__name__, tokenizer.eos_token_id, content, tokenizer.chat_template
        )

    def __call__(self, texts: list[str]) -> list[Sequence[int]]:
        """Token ids of each whole text, closed by the end-of-text token; all are learned."""
        return [self._closed(ids) for ids in self._ids(texts)]

    def beginning(self, text: str) -> Sequence[int]:
        """Token ids of a text that goes on: without what closes one; none where nothing is read."""
        return self._without_end(self._ids([text])[0])

    def prompted(self, pairs: list[tuple[str, str]]) -> list[Sequence[int]]:
        """Token ids of each (prompt, text); only those of the text are learned.

        Prompt and text are tokenized separately, as at generation: no token spans the boundary.
        Special tokens at the front, if any, belong to the prompt.
        """
        prompts = self._ids([prompt for prompt, _ in pairs])
        texts = self._ids([text for _, text in pairs], add_special_tokens=False)
        return [
            _joined(self._without_end(prompt), self._closed(text))
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    def labelled(self, records: Sequence[Labelled], max_tokens: int) -> list[Sequence[int]]:
        """Token ids of each text or pair of texts, then its class; only the class is learned.

        The ids of a text are those of the tokenizer's own call, without a closing end-of-text
        token: the exported adapter, loaded elsewhere, is then given the ids it was trained on. The
        tokenizer truncates, of a pair the longer text first, and keeps its special tokens.

        Args:
            max_tokens: length of a record, the class included, at most.

        Raises:
            ConfigurationError: ``max_tokens`` leaves no room for a text.
        """
        paired = any(record.pair is not None for record in records)
        max_text_tokens = max_tokens - 1  # the class takes one position
        special_tokens = self._tokenizer.num_special_tokens_to_add(pair=paired)
        if max_text_tokens <= special_tokens:
            raise ConfigurationError(
                f"model.seq_len={max_tokens}: {special_tokens} special tokens and the class leave "
                "no room for a text; take more."
            )
        pairs = [self._head(record.pair or "", max_tokens) for record in records]
        encoded = self._encoded(
            [self._head(record.text, max_tokens) for record in records],
            text_pair=pairs if paired else None,
            truncation=True,
            max_length=max_text_tokens,
        )
        return [
            [*masking.given(ids), record.label]
            for ids, record in zip(encoded, records, strict=True)
        ]

    def conversation(self, messages: Sequence[Message], given: int = 0) -> Sequence[int]:
        """Token ids of a conversation; see `userdp.clients.tokenization.chat_template.encode`.

        Args:
            given: number of messages at the front that are not learned.

        Raises:
            ConfigurationError: the tokenizer has no usable chat template.
            ValueError: the template refuses these messages.
        """
        return chat_template.encode(self._tokenizer, messages, given)

    @functools.cached_property
    def _long_texts(self) -> LongTexts:
        return LongTexts(self._tokenizer, split_special_tokens=True)

    @functools.cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after a text."""
        [whole], [bare] = self._encoded(["a"]), self._encoded(["a"], add_special_tokens=False)
        before = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:before], whole[before + len(bare) :]

    def _head(self, text: str, tokens: int) -> str:
        """The text, or of a long one what is left when it is truncated to so many tokens."""
        side = self._tokenizer.truncation_side
        return text if len(text) <= LONG else self._long_texts.head(text, tokens, side=side)

    def _ids(
        self, texts: list[str], *, add_special_tokens: bool = True
    ) -> list[MutableSequence[int]]:
        """Token ids of each text as the tokenizer returns them; arrays for long texts."""
        short = iter(
            self._encoded(
                [text for text in texts if len(text) <= LONG], add_special_tokens=add_special_tokens
            )
        )
        return [
            next(short) if len(text) <= LONG else self._long_ids(text, add_special_tokens)
            for text in texts
        ]

    def _long_ids(self, text: str, add_special_tokens: bool) -> array[int]:
        ids = self._long_texts.ids(text)
        if add_special_tokens:
            before, after = self._around
            ids[:0] = array("i", before)
            ids.extend(after)
        return ids

    def _encoded(self, texts: list[str], **options: Any) -> list[list[int]]:
        """Token ids of each text as the tokenizer itself returns them."""
        if not texts:
            return []
        encoded = self._tokenizer(
            texts, return_attention_mask=False, split_special_tokens=True, verbose=False, **options
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _closed(self, ids: MutableSequence[int]) -> MutableSequence[int]:
        """With one end-of-text token at the end, if the tokenizer has such a token."""
        end = self._tokenizer.eos_token_id
        if end is not None and not (len(ids) and ids[-1] == end):
            ids.append(end)
        return ids

    def _without_end(self, ids: MutableSequence[int]) -> MutableSequence[int]:
        """Without the end-of-text token that some tokenizers put behind every text."""
        if len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id:
            ids.pop()
        return ids


def _joined(prompt: MutableSequence[int], text: MutableSequence[int]) -> Sequence[int]:
    """The prompt's tokens, not learned, then the text's."""
    if not (isinstance(prompt, array) or isinstance(text, array)):
        return [*masking.given(prompt), *text]
    joined = array("i", prompt)
    given = np.frombuffer(joined, np.int32)
    np.invert(given, out=given)
    del given  # an array that is viewed cannot grow
    joined.extend(array("i", text))
    return joined
