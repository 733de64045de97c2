"""What a row says: whose record it is and what a tokenizer is called with, or why it is none.

A record is a text, a text after a prompt, or a conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim.corpus import Encode, Message
from sim.errors import ConfigurationError
from sim.sources import Row


class BadRecord(Exception):
    """Why a row is no record; the text is a reason to count by, never a value of the row."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what; ``split`` is needed for a split by column only.

    A record is a ``text``, after the ``prompt`` if that column is named, or it is a ``chat``: a
    list of messages with ``role`` and ``content``.
    """

    user: str
    text: str | None = None
    prompt: str | None = None
    chat: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.chat is None):
            raise ConfigurationError(
                f"data.text={self.text!r} with data.chat={self.chat!r}: give exactly one of them"
            )
        if self.chat is not None and self.prompt is not None:
            raise ConfigurationError(
                f"data.prompt={self.prompt!r} with data.chat={self.chat!r}: messages hold their "
                "prompts already; leave data.prompt out"
            )


def user(row: Row, column: str) -> str:
    """The user's id as text.

    Raises:
        BadRecord: the row is broken or names no user.
    """
    if row.columns is None:
        raise BadRecord("broken line")
    named = row.columns.get(column)
    if named is None or named == "":
        raise BadRecord("missing user")
    if isinstance(named, bool) or not isinstance(named, str | int):
        raise BadRecord("user is neither text nor an integer")
    return _encodable(str(named), "user is not valid Unicode")


def content(row: Row, columns: Columns, encode: Encode) -> str | tuple[str, str] | list[int]:
    """A text, a prompt and its text, or the token ids of a conversation.

    Raises:
        BadRecord: what is needed is missing, empty or of another kind.
    """
    values = row.columns or {}
    if columns.chat is not None:
        return _conversation(values.get(columns.chat), encode)
    text = _text(values.get(columns.text or ""), "text", may_be_empty=False)
    if columns.prompt is None:
        return text
    return _text(values.get(columns.prompt), "prompt", may_be_empty=True), text


def _text(value: Any, kind: str, *, may_be_empty: bool) -> str:
    if value is None or (isinstance(value, str) and not value.strip() and not may_be_empty):
        raise BadRecord(f"empty {kind}")
    if not isinstance(value, str):
        raise BadRecord(f"{kind} is not text")
    return _encodable(value, f"{kind} is not valid Unicode")


def _conversation(value: Any, encode: Encode) -> list[int]:
    if not isinstance(value, list) or not value:
        raise BadRecord("chat is not a list of messages")
    messages = [_message(message) for message in value]
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRecord("chat without a message of the assistant")
    try:
        return encode.conversation(messages)
    except ConfigurationError:
        raise
    except ValueError as refused:
        raise BadRecord(str(refused)) from None


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise BadRecord("chat is not a list of messages")
    return {
        name: _text(value.get(name), f"{name} of a message", may_be_empty=name == "content")
        for name in ("role", "content")
    }


def _encodable(text: str, reason: str) -> str:
    """The text; half a surrogate pair, which JSON can spell, is refused: no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord(reason) from None
    return text
