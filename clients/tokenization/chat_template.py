"""Tokenizes conversations with a model's chat template; only the assistant's turns are learned.

The token ids are exactly those of the tokenizer's own ``apply_chat_template``.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from userdp.clients.tokenization.long_texts import LONG, LongTexts
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import masking
from userdp.sim.data.corpus import Message

# A template with this tag marks the assistant's tokens itself.
_GENERATION_TAG = re.compile(r"\{%-?\s*generation\b")


def encode(tokenizer: Any, messages: Sequence[Message], given: int = 0) -> Sequence[int]:
    """Signed token ids of a conversation, as in `userdp.sim.data.masking`.

    A token is learned if its first character belongs to an assistant's turn, the closing token of
    the turn included. The turn is what the template adds to the conversation before it and its
    generation prompt; a template with ``{% generation %}`` tags says itself which tokens these are.

    Args:
        given: number of messages at the front that are a prompt: none of their tokens is learned,
            as in the conversational prompt and completion of trl.

    Raises:
        ConfigurationError: the tokenizer has no chat template, is not a fast one, or its template
            renders a turn differently once other turns follow.
        ValueError: this conversation does not fit the template, or spells a special token. The
            message does not quote the conversation.
    """
    _check_tokenizer(tokenizer)
    _refuse_special_tokens(tokenizer, messages)
    if _GENERATION_TAG.search(tokenizer.get_chat_template()):
        return _encode_tagged(tokenizer, messages, given)
    text = _rendered(tokenizer, messages)
    spans = [
        _assistant_span(tokenizer, messages, turn, text)
        for turn, message in enumerate(messages)
        if message["role"] == "assistant" and turn >= given
    ]
    if len(text) > LONG:
        return _encode_long(tokenizer, text, spans)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    learned = [
        any(start <= first < end for start, end in spans) for first, _ in encoded["offset_mapping"]
    ]
    return masking.signed(encoded["input_ids"], learned)


def prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of messages that the assistant is to answer, its turn opened at the end.

    Raises:
        ConfigurationError: the tokenizer has no chat template.
        ValueError: the template refuses the messages, or one of them spells a special token.
    """
    if not tokenizer.chat_template:
        raise ConfigurationError(
            "prompt: the model's tokenizer has no chat template; name plain prompts."
        )
    _refuse_special_tokens(tokenizer, messages)
    text = _rendered(tokenizer, messages, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _encode_long(tokenizer: Any, text: str, spans: Sequence[tuple[int, int]]) -> array[int]:
    """Signed token ids of a rendered conversation, a piece at a time; ``spans`` are learned."""
    starts, ends = np.array(spans, np.int64).T
    result = array("i")
    for piece, encoded in LongTexts(tokenizer).encoded(text, return_offsets_mapping=True):
        first = piece.start + np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)[:, 0]
        first[:1] -= piece.skipped  # a space that stands before the piece is in its first token
        span = np.searchsorted(starts, first, side="right") - 1  # turns do not overlap
        learned = (span >= 0) & (first < ends[span])
        ids = np.asarray(encoded["input_ids"], np.int32)
        result.frombytes(np.where(learned, ids, ~ids).astype(np.int32).tobytes())
    return result


def _check_tokenizer(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise ConfigurationError(
            "data.chat: the model's tokenizer has no chat template; choose a chat model, or name "
            "data.prompt and data.text."
        )
    if not tokenizer.is_fast:
        raise ConfigurationError(
            "data.chat: the model's tokenizer does not report the positions of its tokens in the "
            "text; choose a model with a fast tokenizer."
        )


def _refuse_special_tokens(tokenizer: Any, messages: Sequence[Message]) -> None:
    """Only the template may write special tokens: one in a user's text would act as a real one."""
    special = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special]
    if any(token in text for message in messages for text in message.values() for token in special):
        raise ValueError("a message spells a special token")


def _encode_tagged(tokenizer: Any, messages: Sequence[Message], given: int) -> list[int]:
    """Signed token ids, learned where the template's ``{% generation %}`` tags say so."""
    encoded = _applied(
        tokenizer,
        messages,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    start = len(_front(tokenizer, messages, given)) if given else 0
    learned = [
        mask and first >= start
        for mask, (first, _) in zip(
            encoded["assistant_masks"], encoded["offset_mapping"], strict=True
        )
    ]
    return masking.signed(encoded["input_ids"], learned)


def _front(tokenizer: Any, messages: Sequence[Message], given: int) -> str:
    """The text of the messages at the front, with which that of the conversation begins."""
    text = _rendered(tokenizer, messages[:given])
    if not _rendered(tokenizer, messages).startswith(text):
        raise ConfigurationError(
            "data.prompt: the tokenizer's chat template renders the prompt's messages differently "
            "once others follow; put all messages into data.chat."
        )
    return text


def _assistant_span(
    tokenizer: Any, messages: Sequence[Message], turn: int, text: str
) -> tuple[int, int]:
    """(start, end) in characters of ``text`` of an assistant's turn, its closing token included."""
    before = _rendered(tokenizer, messages[:turn], add_generation_prompt=True)
    after = _rendered(tokenizer, messages[: turn + 1])
    if not (text.startswith(after) and after.startswith(before)):
        raise ConfigurationError(
            "data.chat: the tokenizer's chat template renders a turn differently once others "
            "follow; use a template that marks the assistant's turns by {% generation %}."
        )
    return len(before), len(after)


def _rendered(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    text: str = _applied(tokenizer, messages, tokenize=False, **options)
    return text


def _applied(tokenizer: Any, messages: Sequence[Message], **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except Exception:  # a template is third-party code: it may refuse messages by any exception
        raise ValueError("the chat template refuses the messages") from None
