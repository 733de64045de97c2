"""Parses rows into records: the user and the content to tokenise, or the reason why it is none.

The content is a text, a text after a prompt, a conversation (after messages that are a prompt, if a
column has these apart), or a text or pair with a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.corpus import ChatEncode, Labelled, Message
from userdp.sim.data.sources.base import Row

Content = str | tuple[str, str] | Sequence[int] | Labelled


class BadRecord(Exception):
    """A row that is no record; the message is a reason to count by and quotes nothing."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns.

    A record is a ``text``, after the ``prompt`` if that column is named, or it is a ``chat``: a
    list of messages with ``role`` and ``content``, after those of the ``prompt``. With a ``label``
    it is a ``text``, and a second one if ``pair`` is named, of one of the ``classes``.

    Args:
        user: id of the user; None: every record is a user of its own.
        split: train, test or validation, for a split by column.
        classes: as the label column spells them, in the order of their numbers.

    Raises:
        ConfigurationError: the columns do not fit together; names the field.
    """

    user: str | None
    text: str | None = None
    prompt: str | None = None
    chat: str | None = None
    split: str | None = None
    pair: str | None = None
    label: str | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.text is None) == (self.chat is None):
            raise ConfigurationError(
                f"data.text={self.text!r} with data.chat={self.chat!r}: give exactly one of them"
            )
        self._check_labels()

    def by_setting(self) -> dict[str, str]:
        """Field of the configuration -> the column it names, for all that are named."""
        columns = {
            "data.user": self.user,
            "data.text": self.text,
            "data.prompt": self.prompt,
            "data.chat": self.chat,
            "data.split_column": self.split,
            "data.text_pair": self.pair,
            "data.label": self.label,
        }
        return {setting: column for setting, column in columns.items() if column is not None}

    def own(self) -> Columns:
        """The columns of such records once they are written out, each with its user and its side.

        >>> Columns(user=None, text="body").own()
        Columns(user='user', text='text', prompt=None, chat=None, split='split', pair=None,\
 label=None, classes=())
        """
        names = ("text", "prompt", "chat", "pair", "label")
        named = {name: name for name in names if getattr(self, name) is not None}
        return Columns(user="user", split="split", classes=self.classes, **named)

    def _check_labels(self) -> None:
        if self.label is None:
            if self.pair is not None:
                raise ConfigurationError(
                    f"data.text_pair={self.pair!r}: a second text belongs to a classification; "
                    "name data.label too"
                )
            if self.classes:
                raise ConfigurationError(
                    f"data.classes={','.join(self.classes)}: name the column in data.label too"
                )
            return
        for name, column in (("prompt", self.prompt), ("chat", self.chat)):
            if column is not None:
                raise ConfigurationError(
                    f"data.{name}={column!r} with data.label={self.label!r}: a classification "
                    "reads data.text, and data.text_pair for a second text"
                )
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise ConfigurationError(
                f"data.classes=[{', '.join(self.classes)}] with data.label={self.label!r}: list "
                "the classes, two or more and each once, or give their number if labels count "
                "from 0; they are public and never read from the data"
            )


def user(row: Row, column: str | None) -> str | None:
    """The user's id as text; None if every record is a user of its own.

    Raises:
        BadRecord: the row is broken or has no user.
    """
    if row.columns is None:
        raise BadRecord(row.fault or "broken line")
    if column is None:
        return None
    value = row.columns.get(column)
    if value is None or value == "":
        raise BadRecord("missing user")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRecord("user is neither text nor an integer")
    return _encodable(str(value), "user is not valid Unicode")


def own_user(content: object, seen: Counter[str]) -> str:
    """The user id of a record that is a user of its own: its hash and its number among equal ones.

    Adding or removing one record changes no other id.

    Args:
        seen: digest -> number of records so far; updated.
    """
    digest = cache.fingerprint(content)
    seen[digest] += 1
    return f"{digest}-{seen[digest]}"


def content(row: Row, columns: Columns, encode: ChatEncode | None) -> Content:
    """A text, (prompt, text), the token ids of a conversation, or a labelled text or pair.

    Raises:
        BadRecord: a value is missing, empty or of a wrong type.
        ConfigurationError: the tokenizer has no chat format.
    """
    values = row.columns or {}
    if columns.chat is not None:
        given = [] if columns.prompt is None else _messages(values.get(columns.prompt), "prompt")
        return _conversation(given, _messages(values.get(columns.chat), "chat"), encode)
    text = _text(values.get(columns.text or ""), "text", may_be_empty=False)
    if columns.label is not None:
        return Labelled(text, _second(values, columns.pair), _label(values, columns))
    if columns.prompt is None:
        return text
    return _text(values.get(columns.prompt), "prompt", may_be_empty=True), text


def _second(values: Mapping[str, Any], column: str | None) -> str | None:
    return None if column is None else _text(values.get(column), "second text", may_be_empty=False)


def _label(values: Mapping[str, Any], columns: Columns) -> int:
    value = values.get(columns.label or "")
    if value is None or value == "":
        raise BadRecord("missing label")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRecord("label is neither text nor an integer")
    if str(value) not in columns.classes:
        raise BadRecord("label is none of data.classes")
    return columns.classes.index(str(value))


def _text(value: Any, kind: str, *, may_be_empty: bool) -> str:
    if value is None or (isinstance(value, str) and not value.strip() and not may_be_empty):
        raise BadRecord(f"empty {kind}")
    if not isinstance(value, str):
        raise BadRecord(f"{kind} is not text")
    return _encodable(value, f"{kind} is not valid Unicode")


def _messages(value: Any, kind: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{kind} is not a list of messages")
    return [_message(message, kind) for message in value]


def _conversation(
    given: list[Message], chat: list[Message], encode: ChatEncode | None
) -> Sequence[int]:
    """The token ids of a conversation; messages that are given are not learned, whoever speaks."""
    if not any(message["role"] == "assistant" for message in chat):
        raise BadRecord("chat without a message of the assistant")
    if encode is None:
        raise TypeError("A conversation needs a tokenizer.")
    try:
        return encode.conversation([*given, *chat], len(given))
    except ConfigurationError:
        raise
    except ValueError as error:
        raise BadRecord(str(error)) from None


def _message(value: Any, kind: str) -> Message:
    if not isinstance(value, Mapping):
        raise BadRecord(f"{kind} is not a list of messages")
    return {
        name: _text(value.get(name), f"{name} of a message", may_be_empty=name == "content")
        for name in ("role", "content")
    }


def _encodable(text: str, reason: str) -> str:
    """The text; refuses half a surrogate pair, which JSON can spell and no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord(reason) from None
    return text
