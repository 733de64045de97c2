"""Conversations in the chat format of a model: what the assistant says is learned, nothing else.

The token ids are exactly those of the tokenizer's own ``apply_chat_template``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import masking
from userdp.sim.data.corpus import Message

_MARKED = re.compile(r"\{%-?\s*generation\b")  # a template that says itself what is generated


def encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Signed token ids of a conversation, as in `userdp.sim.data.masking`.

    Raises:
        ConfigurationError: the tokenizer cannot do this, whatever the messages.
        ValueError: this conversation does not fit the template; quotes nothing of it.
    """
    _check(tokenizer)
    _refuse_control_tokens(tokenizer, messages)
    if _MARKED.search(tokenizer.get_chat_template()):
        return _by_template(tokenizer, messages)
    whole = _rendered(tokenizer, messages)
    spans = [
        _span(tokenizer, messages, i, whole)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    learned = [
        any(start <= first < end for start, end in spans) for first, _ in encoded["offset_mapping"]
    ]
    return masking.signed(encoded["input_ids"], learned)


def _check(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise ConfigurationError(
            "data.chat: the model's tokenizer has no chat template; choose a chat model, or name "
            "data.prompt and data.text."
        )
    if not tokenizer.is_fast:
        raise ConfigurationError(
            "data.chat: the model's tokenizer does not tell where its tokens stand in the text; "
            "choose a model with a fast tokenizer."
        )


def _refuse_control_tokens(tokenizer: Any, messages: Sequence[Message]) -> None:
    """Only the template may write special tokens: a spelled-out one would act as a real one."""
    special = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special]
    if any(token in text for message in messages for text in message.values() for token in special):
        raise ValueError("a message spells a special token")


def _by_template(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    encoded = _applied(tokenizer, messages, return_dict=True, return_assistant_tokens_mask=True)
    return masking.signed(encoded["input_ids"], encoded["assistant_masks"])


def _span(tokenizer: Any, messages: Sequence[Message], turn: int, whole: str) -> tuple[int, int]:
    """(start, end) in characters of what the assistant says at this turn, its closing included."""
    before = _rendered(tokenizer, messages[:turn], add_generation_prompt=True)
    after = _rendered(tokenizer, messages[: turn + 1])
    if not (whole.startswith(after) and after.startswith(before)):
        raise ConfigurationError(
            "data.chat: the tokenizer's chat template renders a turn differently once others "
            "follow; use a template that marks the assistant's turns by {% generation %}."
        )
    return len(before), len(after)


def _rendered(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    return _applied(tokenizer, messages, tokenize=False, **options)


def _applied(tokenizer: Any, messages: Sequence[Message], **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except Exception:  # a template is a program of others: whatever it raises, it refuses
        raise ValueError("the chat template refuses the messages") from None
