"""Short names of data sets and models, for figures, tables and sentences."""

from __future__ import annotations

from pathlib import Path


def short(value: str) -> str:
    """The last part of a path, without suffix; the folder's name where the file is only "data".

    >>> short("in/mail/data.jsonl"), short("in/plays.jsonl")
    ('mail', 'plays')
    """
    path = Path(value)
    return path.parent.name if path.stem in ("data", "train") and path.parent.name else path.stem
