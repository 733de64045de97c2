"""Guesses which columns hold users and records, from the names of columns and what they hold.

A column that is configured and exists is taken; a guess is for what is not. Nothing trains on a
guess: `userdp data` prints it with its reason, and a run needs the settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from userdp.sim.data.column_facts import INTEGER, MESSAGES, TEXT, ColumnFacts

# Names without case, digits kept and other signs dropped; the first that is there is taken.
_USERS = (
    *("userid", "user", "username", "authorid", "author", "senderid", "sender", "from"),
    *("speakerid", "speaker", "annotatorid", "annotator", "owneruserid", "clientid", "client"),
    *("hashedip", "accountid", "account", "personid", "person", "characterid", "who"),
)
_CHATS = ("messages", "conversation", "conversations", "chat", "dialogue", "dialog")
_PAIRS = (
    *(("prompt", "completion"), ("prompt", "response"), ("inputs", "targets")),
    *(("input", "output"), ("instruction", "response"), ("instruction", "output")),
    *(("question", "answer"), ("query", "response")),
)
_TEXTS = ("text", "body", "content", "message", "said", "post", "comment", "speech", "document")
_LONGEST_ID = 80  # characters, on average


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Columns as `userdp.sim.data.records.Columns` has them, and why each of them."""

    user: str | None
    user_reason: str
    text: str | None = None
    prompt: str | None = None
    chat: str | None = None
    content_reason: str = ""


def guess(columns: Sequence[ColumnFacts], rows: int, configured: Mapping[str, str | None]) -> Guess:
    """The columns of users and records.

    Args:
        columns: what is there.
        rows: number of rows that the facts are of.
        configured: ``user``, ``text``, ``prompt`` and ``chat`` of the settings.
    """
    names = {column.name for column in columns}
    others = [c for c in columns if c.name != configured["user"] and _plain(c.name) not in _USERS]
    content = _configured_content(names, configured) or _content(others)
    taken = {content.get(name) for name in ("text", "prompt", "chat")}
    user, reason = _user([c for c in columns if c.name not in taken], rows, configured["user"])
    return Guess(user=user, user_reason=reason, **content)


def _user(
    columns: Sequence[ColumnFacts], rows: int, configured: str | None
) -> tuple[str | None, str]:
    if configured is None:
        return None, "data.user=null: every record is a user of its own"
    fitting = [column for column in columns if set(column.types) <= {TEXT, INTEGER}]
    if configured in (column.name for column in fitting):
        return configured, "named by data.user"
    if configured in (column.name for column in columns):
        return configured, "named by data.user, but an id is a text or an integer"
    if named := _first_named(_USERS, fitting):
        return named.name, "its name is one of those that columns of users have"
    repeated = [
        column
        for column in fitting
        if 1 < column.distinct <= rows / 2 and column.length <= _LONGEST_ID and column.filled > 0.9
    ]
    if repeated:
        found = max(repeated, key=lambda column: column.distinct)
        return found.name, "its values are short and come back, and no column has a user's name"
    return None, "no column looks like one of users: every record would be a user of its own"


def _configured_content(
    names: set[str], configured: Mapping[str, str | None]
) -> dict[str, str] | None:
    """The configured columns, if all that are named exist."""
    given = {name: configured[name] for name in ("text", "prompt", "chat")}
    named = {name: column for name, column in given.items() if column is not None}
    if not set(named.values()) <= names:
        return None
    words = " and ".join(f"data.{name}" for name in named)
    return {**named, "content_reason": f"named by {words}"}


def _content(columns: Sequence[ColumnFacts]) -> dict[str, str]:
    talks = [column for column in columns if column.types[:1] == (MESSAGES,)]
    texts = [column for column in columns if column.types[:1] == (TEXT,)]
    if pair := _pair(talks):
        reason = "lists of messages, of which the first column is read and the second learned"
        return {"prompt": pair[0], "chat": pair[1], "content_reason": reason}
    if talks:
        found = _first_named(_CHATS, talks) or talks[0]
        return {"chat": found.name, "content_reason": "its values are lists of messages"}
    if pair := _pair(texts):
        reason = "their names are those of a prompt and what follows it"
        return {"prompt": pair[0], "text": pair[1], "content_reason": reason}
    if named := _first_named(_TEXTS, texts):
        reason = "its name is one of those that columns of texts have"
        return {"text": named.name, "content_reason": reason}
    if texts:
        found = max(texts, key=lambda column: column.length)
        return {"text": found.name, "content_reason": "its texts are the longest"}
    return {"content_reason": "no column holds texts or lists of messages"}


def _pair(columns: Sequence[ColumnFacts]) -> tuple[str, str] | None:
    by_name = {_plain(column.name): column.name for column in columns}
    for first, second in _PAIRS:
        if first in by_name and second in by_name:
            return by_name[first], by_name[second]
    return None


def _first_named(names: Sequence[str], columns: Sequence[ColumnFacts]) -> ColumnFacts | None:
    by_name = {_plain(column.name): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
