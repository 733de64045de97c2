"""Generates the public pages beside the stories: forum posts, phrase books, letters, lists.

Each page is a function of seed and number, and speaks of one set of people, places and things.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from userdp.sim.data.synthetic import everyday_words, grammar, names
from userdp.sim.data.synthetic.public_phrases import RULES

_THEMES = tuple(everyday_words.TOPICS)
_PLACES = ("the library", "the station", "the village hall", "the market")


def page(seed: int, number: int) -> str:
    """One page of about sixty words, a function of its arguments."""
    chance = random.Random(f"page/{seed}/{number}")
    rules = {**RULES, **_cast(chance)}
    kind = names.pick(_SHARES, chance)
    return _KINDS[kind](rules, chance)


def _cast(chance: random.Random) -> grammar.Rules:
    """Rules with the people, places, theme and things of one page in place of all."""
    theme = names.pick(_THEMES, chance)
    kinds = everyday_words.SPOT_KINDS
    own = [names.name(chance) + names.pick(kinds, chance) for _ in range(2)]
    others = [names.name(chance) for _ in range(3)]
    things = everyday_words.TOPICS[theme].split("|")
    places = [*own, *own, names.pick(_PLACES, chance)]
    lists = {
        "theme": [theme],
        "person": [names.name(chance)],
        **dict.fromkeys(("thing", "topic_thing"), things),
        **dict.fromkeys(("other", "friend"), others),
        **dict.fromkeys(("place", "spot"), places),
        "pet": [names.name(chance)],
        "catchphrase": ["tbh", "honestly", "to be fair"],
    }
    return {name: grammar.alternatives(texts) for name, texts in lists.items()}


def _forum(rules: grammar.Rules, chance: random.Random) -> str:
    """A heading, and posts under the pen names of four people."""
    pens = [names.name(chance).lower() for _ in range(4)]
    posts = [_post(rules, chance) for _ in range(_count(4, 10, chance))]
    lines = [f"{names.pick(pens, chance)}: {post}" for post in posts]
    return "\n".join([grammar.expand(rules, "heading", chance), *lines])


def _post(rules: grammar.Rules, chance: random.Random) -> str:
    """One to three informal sentences with the same punctuation."""
    stop = grammar.expand(rules, "stop", chance)
    kind = names.pick(["chat", "posted"], chance)
    said = _different(kind, _count(1, 3, chance), rules, chance)
    if chance.random() < 0.2:
        said = [grammar.expand(rules, "reaction", chance), *said]
    return " ".join(text if text.endswith("?") else text + stop for text in said)


def _phrase_book(rules: grammar.Rules, chance: random.Random) -> str:
    """A conversation of two people in tidy English."""
    speakers = [names.name(chance), names.name(chance)]
    lines = []
    for turn in range(_count(4, 10, chance)):
        kinds = names.pick(["ask", "tell", "react", "react tell", "tell ask"], chance).split()
        said = " ".join(grammar.expand(rules, kind, chance) for kind in kinds)
        lines.append(f"{speakers[turn % 2]}: {said}")
    return "\n".join(lines)


def _letter(rules: grammar.Rules, chance: random.Random) -> str:
    """A formal letter, or a newsletter with a subject."""
    subject = [grammar.expand(rules, "newsletter", chance)] if chance.random() < 0.5 else []
    greeting = names.pick(["Dear {}", "Dear members", "Dear Sir", "Dear all"], chance)
    person = grammar.expand(rules, "person", chance)
    closing = names.pick(["Yours faithfully", "Kind regards", "With many thanks"], chance)
    body = _different("formal", _count(3, 9, chance), rules, chance)
    parts = [*subject, greeting.format(person) + ",", " ".join(body), f"{closing}\n{person}"]
    return "\n\n".join(parts)


def _list(rules: grammar.Rules, chance: random.Random) -> str:
    """A title, and lines that begin with the same sign."""
    bullet = grammar.expand(rules, "bullet", chance)
    kind = names.pick(["price", "errand"], chance)
    lines = _different(kind, _count(3, 9, chance), rules, chance)
    title = grammar.expand(rules, "price_title", chance)
    return "\n".join([title, *(f"{bullet} {line}" for line in lines)])


def _lines_of(name: str) -> Callable[[grammar.Rules, random.Random], str]:
    def lines(rules: grammar.Rules, chance: random.Random) -> str:
        separator = names.pick(["\n", " "], chance)
        return separator.join(_different(name, _count(4, 9, chance), rules, chance))

    return lines


def _different(name: str, most: int, rules: grammar.Rules, chance: random.Random) -> Sequence[str]:
    """So many texts for a name, or fewer, since none is said twice."""
    return list(dict.fromkeys(grammar.expand(rules, name, chance) for _ in range(most)))


def _count(least: int, most: int, chance: random.Random) -> int:
    return least + int((most - least + 1) * chance.random())


_KINDS: Mapping[str, Callable[[grammar.Rules, random.Random], str]] = {
    "forum": _forum,
    "post": _post,
    "phrase book": _phrase_book,
    "letter": _letter,
    "list": _list,
    "notice": _lines_of("notice"),
    "gazetteer": _lines_of("gazetteer"),
    "lesson": _lines_of("lesson"),
}
_SHARES = (  # one entry for each twentieth of the pages
    *["forum"] * 4,
    *["post"] * 5,
    *["phrase book"] * 4,
    *["letter"] * 2,
    *["list"] * 2,
    *["notice", "gazetteer", "lesson"],
)
