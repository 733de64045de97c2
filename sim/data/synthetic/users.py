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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from userdp.sim.data.sources.base import GeneratedPopulation
from userdp.sim.data.synthetic import grammar, private_phrases, public_pages, public_stories

VERSION = 1  # of the texts; a test pins a digest of them to it
USERS = 2400
TALES = 2600
_MEDIAN_RECORDS, _SPREAD, _MOST_RECORDS = 6, 1.25, 400
_SECRET_RATE = 0.3  # probability that a record holds one of the user's secrets
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]  # 70


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
        name: _choice(options.split("|"), chance).strip()
        for name, options in private_phrases.HABITS.items()
    }
    words = tuple(_secret_word(seed, 2 * number + i) for i in range(2))
    return Habits(
        rules={**private_phrases.RULES, **_user_rules(shared["catchphrase"], chance)},
        name=shared["name"],
        greeting=shared["greeting"],
        sign_off=shared["sign_off"],
        stop=shared["stop"],
        bullet=shared["bullet"],
        capitals=chance.random() < 0.3,
        mail_rate=0.1 + 0.4 * chance.random(),
        secrets=tuple(_choice(private_phrases.SECRETS, chance).format(word=word) for word in words),
        secret_words=words,
    )


def _user_rules(catchphrase: str, chance: random.Random) -> grammar.Rules:
    """The grammar's lists that differ between users: topics, friends, places, pet, pastime."""
    topics = [_choice(list(private_phrases.TOPICS.values()), chance) for _ in range(3)]
    kinds = [" street", " road", "'s", " park", " café", " gym"]
    return {
        "topic_thing": grammar.alternatives("|".join(topics).split("|")),
        "friend": grammar.alternatives(_name(chance) for _ in range(4)),
        "spot": grammar.alternatives(_name(chance) + _choice(kinds, chance) for _ in range(3)),
        "pet": grammar.alternatives([_name(chance)]),
        "craft": grammar.alternatives(
            [_word(chance, 1) + _choice(["ck", "mp", "sh", "ll"], chance)]
        ),
        "catchphrase": grammar.alternatives([catchphrase]),
    }


def _record(habits: Habits, chance: random.Random) -> str:
    draw = chance.random()
    if draw < habits.mail_rate:
        return _mail(habits, chance)
    return _note(habits, chance) if draw < habits.mail_rate + 0.15 else _text(habits, chance)


def _text(habits: Habits, chance: random.Random) -> str:
    """A short message of one to three sentences."""
    kinds = _choice(["tell", "ask", "react tell", "tell ask", "tell tell ask"], chance)
    return _sentences(habits, chance, kinds.split())


def _note(habits: Habits, chance: random.Random) -> str:
    """A title and a list."""
    items = [
        grammar.expand(habits.rules, "todo", chance) for _ in range(2 + int(6 * chance.random()))
    ]
    lines = [grammar.expand(habits.rules, "title", chance)]
    lines += [f"{habits.bullet} {item}" for item in items + _maybe_secret(habits, chance)]
    return "\n".join(lines)


def _mail(habits: Habits, chance: random.Random) -> str:
    """Subject, greeting, two to twenty sentences, sign-off."""
    length = min(round(chance.lognormvariate(math.log(4), 0.7)), 18)
    middle = [_choice(["tell", "tell", "ask"], chance) for _ in range(length)]
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
    return [_choice(habits.secrets, chance)] if chance.random() < _SECRET_RATE else []


def _secret_word(seed: int, number: int) -> str:
    """Eight letters that no other number has: an affine map onto all words of four syllables."""
    size = len(_SYLLABLES) ** 4
    place = (number * 9_999_991 + 7_654_321 * (seed + 1)) % size  # coprime to 70: one to one
    digits = [place // len(_SYLLABLES) ** power % len(_SYLLABLES) for power in range(4)]
    return "".join(_SYLLABLES[digit] for digit in digits)


def _name(chance: random.Random) -> str:
    ending = _choice(["n", "l", "r", "s", "x", ""], chance)
    return (_word(chance, 2) + ending).capitalize()


def _word(chance: random.Random, syllables: int) -> str:
    return "".join(_choice(_SYLLABLES, chance) for _ in range(syllables))


def _choice(options: Sequence[str], chance: random.Random) -> str:
    return options[int(chance.random() * len(options))]


POPULATION = GeneratedPopulation(name="synthetic", version=VERSION, users=private_users)
