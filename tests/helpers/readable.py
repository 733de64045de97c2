"""Measures of generated text: is it made of known words, of known word pairs, in whose register.

The oracle is the corpora themselves. Invented names are one class of words, known by their shape:
two syllables of the generators' and perhaps a consonant, or four for a word like a secret.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from userdp.sim.data.synthetic import names, users

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_INVENTED = re.compile(f"(?:[{_CONSONANTS}][{_VOWELS}]){{2,4}}[nlrsm]?", re.IGNORECASE)
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]+|\n")


def tokens(text: str) -> list[str]:
    """Words, signs and line ends in lower case; numbers are ``0``, invented names ``Name``."""
    return [_class(token) for token in _TOKEN.findall(text)]


def _class(token: str) -> str:
    if token.isdigit():
        return "0"
    word = token.lower()
    return "Name" if word not in _common() and _INVENTED.fullmatch(word) else word


@functools.cache
def _common() -> frozenset[str]:
    """Words of two syllables that are no invented names, such as ``pony``."""
    counts: dict[str, set[str]] = {}
    for number, text in enumerate(users.public_text(0)[:1500]):
        for word in _TOKEN.findall(text):
            if _INVENTED.fullmatch(word) and word.islower():
                counts.setdefault(word, set()).add(str(number))
    return frozenset(word for word, pages in counts.items() if len(pages) >= 8)


@functools.cache
def _known(count: int) -> frozenset[tuple[str, ...]]:
    """All runs of ``count`` tokens of the public text and of all private users, seed 0."""
    private = (text for _, texts in users.private_users(0) for text in texts)
    return frozenset(
        run for text in (*users.public_text(0), *private) for run in _runs(tokens(text), count)
    )


def known_share(texts: Iterable[str], count: int) -> float:
    """Share of the runs of ``count`` tokens that occur somewhere in the corpora."""
    found = [run in _known(count) for text in texts for run in _runs(tokens(text), count)]
    return sum(found) / max(1, len(found))


def informal_share(texts: Sequence[str]) -> float:
    """Share of texts that begin like a private message: with a small letter or a mail's subject."""
    return sum(bool(re.match(r"[a-z]|Subject: (?:re|fwd)?", text)) for text in texts) / len(texts)


def secrets_in(texts: Iterable[str], seed: int, count: int = users.USERS) -> set[str]:
    """Secret words of any user of that seed which occur in the texts."""
    secret = {names.secret_word(seed, number) for number in range(2 * count)}
    return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())} & secret


def _runs(items: Sequence[str], count: int) -> Iterable[tuple[str, ...]]:
    return zip(*(items[start:] for start in range(count)), strict=False)
