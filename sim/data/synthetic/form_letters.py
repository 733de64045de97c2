"""Generates users who hold nearly the same texts: four form letters, unchanged for 9 users in 10.

A population for the test of concentration (docs/concentration.md): users whose update covers all
four letters send the same update as most others. With fewer records per user, a cohort falls into
as many groups as there are choices of letters.

>>> user, letters = next(private_users(seed=0, users=1))
>>> user, len(letters)
('user-00000', 4)
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from userdp.sim.data.sources.base import GeneratedPopulation
from userdp.sim.data.synthetic import users as synthetic

LETTERS = 4
_EDITED = 0.1  # share of users who put a line of their own before every letter
_FIRST_AUTHOR = 10**6  # number of the first letter's author, beyond every user of a population


def letters(seed: int) -> list[str]:
    """The letters of a population: the longest text of each of four invented users outside it."""
    authors = range(_FIRST_AUTHOR, _FIRST_AUTHOR + LETTERS)
    return [max(synthetic.user_records(seed, author), key=len) for author in authors]


def private_users(seed: int, users: int = synthetic.USERS) -> Iterator[tuple[str, list[str]]]:
    """(id, records) of each user; a user's records do not depend on ``users``."""
    form_letters = letters(seed)
    for number in range(users):
        chance = random.Random(f"form letters/{seed}/{number}")
        line = synthetic.user_records(seed, number)[0]
        before = f"{line}\n" if chance.random() < _EDITED else ""
        yield synthetic.user_id(number), [before + letter for letter in form_letters]


POPULATION = GeneratedPopulation(
    name="form_letters", version=synthetic.VERSION, users=private_users
)
