"""Expands texts from a grammar: lists of alternatives whose ``{names}`` stand for other lists.

>>> rules = compiled({"greeting": "hello {who} | {^who}, hello", "who": "moon"})
>>> sorted({expand(rules, "greeting", random.Random(seed)) for seed in range(20)})
['Moon, hello', 'hello moon']
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping

Template = tuple[str, ...]  # literal, name, literal, name, ..., literal
Rules = Mapping[str, tuple[Template, ...]]

_SLOT = re.compile(r"\{(\^?\w+)\}")  # {^name}: the text with a capital first letter


def compiled(source: Mapping[str, str]) -> Rules:
    """Rules from alternatives separated by ``|``, without the blanks around them."""
    return {name: alternatives(text.split("|")) for name, text in source.items()}


def alternatives(texts: Iterable[str]) -> tuple[Template, ...]:
    """The alternatives of one name, all of the same probability; empty texts are left out."""
    return tuple(tuple(_SLOT.split(text.strip())) for text in texts if text.strip())


def expand(rules: Rules, name: str, chance: random.Random) -> str:
    """One random text for ``name``, with all slots filled.

    Draws with ``chance.random()`` alone, whose sequence Python keeps the same in all versions.
    """
    options = rules[name]
    template = options[int(chance.random() * len(options))]
    if len(template) == 1:
        return template[0]
    return "".join(
        _filled(rules, part, chance) if number % 2 else part for number, part in enumerate(template)
    )


def _filled(rules: Rules, slot: str, chance: random.Random) -> str:
    if slot[0] != "^":
        return expand(rules, slot, chance)
    text = expand(rules, slot[1:], chance)
    return text[:1].upper() + text[1:]
