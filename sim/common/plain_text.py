r"""Text of others on a terminal, in a message or in a cell: it cannot pass for anything else.

>>> shown("a\x1b[31mb"), shown("x" * 300)[-22:]
('a\\x1b[31mb', 'xx... (300 characters)')
>>> cell("=1+1"), cell("-2.5"), cell(-2.5), cell("plain")
("'=1+1", '-2.5', -2.5, 'plain')
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any

_LONGEST = 120  # characters of a value that a message repeats
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n|%]")  # what a spreadsheet takes for a formula
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


def printable(text: str) -> str:
    r"""The text with control characters written out, so that a terminal obeys none.

    Args:
        text: may hold line breaks and tabs, which stay.
    """
    return "".join(
        sign if sign in "\n\t" or not _commands(sign) else sign.encode("unicode_escape").decode()
        for sign in text
    )


def _commands(sign: str) -> bool:
    """Whether a terminal may obey the sign, or hide by it what stands beside it."""
    kind = unicodedata.category(sign)
    return kind in ("Cc", "Cs") or sign in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def shown(value: Any) -> str:
    """A value as a message repeats it: one line, printable, and not longer than a line."""
    try:
        text = str(value)
    except ValueError:  # a whole number of more digits than Python writes
        return "a number of thousands of digits"
    text = printable(text).replace("\n", "\\n").replace("\t", "\\t")
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... ({len(text)} characters)"


def cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would take for a formula is quoted.

    Numbers stay numbers, also where they are text already.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value) or not _FORMULA.match(value):
        return value
    return f"'{value}"


def identifier(text: str) -> str:
    """The text as a name of a file and an id in a page: letters, digits, - and _ alone.

    Two texts that differ get two names: where characters were lost, a hash of the text follows.

    >>> identifier("user_wise"), identifier("a/b")
    ('user_wise', 'a_b-c14cdd')
    """
    clean = re.sub(r"[^\w-]+", "_", text)
    return clean if clean == text else f"{clean}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def markdown(text: str) -> str:
    r"""The text as part of a Markdown line or cell, where no character of it is markup.

    >>> markdown("a|b`c` <i> [x](y)")
    'a\\|b\\`c\\` &lt;i&gt; \\[x\\](y)'
    """
    line = " ".join(printable(text).split())
    line = re.sub(r"([\\`|*\[\]])", r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def row(values: Any) -> Any:
    """The cells of a mapping's values, or of a sequence, as `cell` writes them."""
    if hasattr(values, "items"):
        return {cell(name): cell(value) for name, value in values.items()}
    return [cell(value) for value in values]
