"""Generates the embedded corpus without network: a public text and 2,400 invented users.

A user's records are a function of the seed and the user's number. All users share a register
(messages, notes, mails) that the public text does not have; each user has friends, places, a pet, a
pastime, habits and secrets that no other user has.

>>> user, texts = next(private_users(seed=0, users=1))
>>> user, len(texts) > 0
('user-00000', True)
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from userdp.sim.data.sources.base import GeneratedPopulation
from userdp.sim.data.synthetic import (
    everyday_words,
    grammar,
    names,
    private_phrases,
    public_pages,
    public_stories,
)

VERSION = 2  # of the texts; a test pins a digest of them to it
USERS = 2400
TALES = 2600
_MEDIAN_RECORDS, _SPREAD, _MOST_RECORDS = 6, 1.25, 400
_SECRET_RATE = 0.3  # probability that a record holds one of the user's secrets


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What is characteristic of one user's texts."""

    rules: grammar.Rules
    name: str
    greeting: str
    sign_off: str
    stop: str  # punctuation at the end of a sentence
    bullet: str
    capitals: bool  # begins sentences with a capital letter
    mail_rate: float  # share of mails, the longest kind of record
    secrets: tuple[str, ...]  # sentences, each with a word that no other user has
    secret_words: tuple[str, ...]


def public_text(seed: int) -> list[str]:
    """Stories in prose, each followed by two pages of other kinds; about 450,000 words in all."""
    return [text for number in range(TALES) for text in _public_part(seed, number)]


def _public_part(seed: int, number: int) -> tuple[str, str, str]:
    pair = 2 * number
    return (
        public_stories.tale(seed, number),
        public_pages.page(seed, pair),
        public_pages.page(seed, pair + 1),
    )


def private_users(seed: int, users: int = USERS) -> Iterator[tuple[str, list[str]]]:
    """(id, records) of each user; a user's records do not depend on ``users``."""
    for number in range(users):
        yield user_id(number), user_records(seed, number)


def user_id(number: int) -> str:
    """The id of the user of this number, ``user-00000``."""
    return f"user-{number:05d}"


def user_records(seed: int, number: int) -> list[str]:
    """The records of one user, most of them short; their count is log-normal, from 1 to 400."""
    chance = random.Random(f"user/{seed}/{number}")
    habits = habits_of(seed, number)
    count = round(chance.lognormvariate(math.log(_MEDIAN_RECORDS), _SPREAD))
    return [_record(habits, chance) for _ in range(min(max(count, 1), _MOST_RECORDS))]


def habits_of(seed: int, number: int) -> Habits:
    """The habits, secrets and vocabulary of one user, a function of seed and number."""
    chance = random.Random(f"habits/{seed}/{number}")
    shared = {
        name: names.pick(options.split("|"), chance).strip()
        for name, options in private_phrases.HABITS.items()
    }
    words = tuple(names.secret_word(seed, 2 * number + i) for i in range(2))
    return Habits(
        rules={**private_phrases.RULES, **_user_rules(shared["catchphrase"], chance)},
        name=shared["name"],
        greeting=shared["greeting"],
        sign_off=shared["sign_off"],
        stop=shared["stop"],
        bullet=shared["bullet"],
        capitals=chance.random() < 0.3,
        mail_rate=0.1 + 0.4 * chance.random(),
        secrets=tuple(
            names.pick(private_phrases.SECRETS, chance).format(word=word) for word in words
        ),
        secret_words=words,
    )


def _user_rules(catchphrase: str, chance: random.Random) -> grammar.Rules:
    """The grammar's lists that differ between users: topics, friends, places, pet, pastime."""
    topics = [names.pick(list(everyday_words.TOPICS.values()), chance) for _ in range(3)]
    kinds = everyday_words.SPOT_KINDS
    return {
        "topic_thing": grammar.alternatives("|".join(topics).split("|")),
        "friend": grammar.alternatives(names.name(chance) for _ in range(4)),
        "spot": grammar.alternatives(
            names.name(chance) + names.pick(kinds, chance) for _ in range(3)
        ),
        "pet": grammar.alternatives([names.name(chance)]),
        "craft": grammar.alternatives([names.pick(everyday_words.CRAFT.split("|"), chance)]),
        "catchphrase": grammar.alternatives([catchphrase]),
    }


def _record(habits: Habits, chance: random.Random) -> str:
    draw = chance.random()
    if draw < habits.mail_rate:
        return _mail(habits, chance)
    return _note(habits, chance) if draw < habits.mail_rate + 0.15 else _text(habits, chance)


def _text(habits: Habits, chance: random.Random) -> str:
    """A short message of one to three sentences."""
    kinds = names.pick(["tell", "ask", "react tell", "tell ask", "tell tell ask"], chance)
    return _sentences(habits, chance, kinds.split())


def _note(habits: Habits, chance: random.Random) -> str:
    """A title and a list."""
    tries = 2 + int(6 * chance.random())
    items = list(dict.fromkeys(grammar.expand(habits.rules, "todo", chance) for _ in range(tries)))
    lines = [grammar.expand(habits.rules, "title", chance)]
    lines += [f"{habits.bullet} {item}" for item in items + _maybe_secret(habits, chance)]
    return "\n".join(lines)


def _mail(habits: Habits, chance: random.Random) -> str:
    """Subject, greeting, two to twenty sentences, sign-off."""
    length = min(round(chance.lognormvariate(math.log(4), 0.7)), 18)
    middle = [names.pick(["tell", "tell", "ask"], chance) for _ in range(length)]
    friend = grammar.expand(habits.rules, "friend", chance)
    parts = (
        f"Subject: {grammar.expand(habits.rules, 'subject', chance)}",
        f"{habits.greeting} {friend},",
        _sentences(habits, chance, ["opener", *middle, "closer"]),
        f"{habits.sign_off}\n{habits.name}",
    )
    return "\n\n".join(parts)


def _sentences(habits: Habits, chance: random.Random, kinds: list[str]) -> str:
    """One sentence of each kind and perhaps a secret, in the user's punctuation."""
    sentences = [grammar.expand(habits.rules, kind, chance) for kind in kinds]
    sentences += _maybe_secret(habits, chance)
    if habits.capitals:
        sentences = [sentence[:1].upper() + sentence[1:] for sentence in sentences]
    return " ".join(s if s.endswith("?") else s + habits.stop for s in sentences)


def _maybe_secret(habits: Habits, chance: random.Random) -> list[str]:
    return [names.pick(habits.secrets, chance)] if chance.random() < _SECRET_RATE else []


POPULATION = GeneratedPopulation(
    name="synthetic",
    version=VERSION,
    users=private_users,
    prompts=("i'm", "can u", "thanks for"),
)
