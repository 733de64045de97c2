"""Users who hold nearly the same texts: form letters, sent on unchanged by nine users in ten.

The population for which a test of concentration is made (docs/concentration.md): whoever takes all
four letters into an update sends the same update as most others. With fewer records a user, cohorts
fall into as many groups as there are choices of letters.

>>> user, letters = next(private_users(seed=0, users=1))
>>> user, len(letters)
('user-00000', 4)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from userdp.sim.data.corpus import Corpus, Encode
from userdp.sim.data.synthetic import users as synthetic

LETTERS = 4
_OWN_SHARE = 0.1  # of users, who put a line of their own before every letter
_AUTHORS = 10**6  # numbers of the letters' authors begin here: nobody in the population


def letters(seed: int) -> list[str]:
    """The letters of a population: a long text of each of some invented users outside it."""
    authors = range(_AUTHORS, _AUTHORS + LETTERS)
    return [max(synthetic.user_records(seed, author), key=len) for author in authors]


def private_users(seed: int, users: int = synthetic.USERS) -> Iterator[tuple[str, list[str]]]:
    """(id, records) of each user; a user's records do not depend on ``users``."""
    sent = letters(seed)
    for number in range(users):
        chance = random.Random(f"form letters/{seed}/{number}")
        own = synthetic.user_records(seed, number)[0]
        before = f"{own}\n" if chance.random() < _OWN_SHARE else ""
        yield synthetic.user_id(number), [before + letter for letter in sent]


def load(seed: int, users: int, encode: Encode, cache_folder: Path) -> Corpus:
    """As `synthetic.load`."""
    people = private_users(seed, users)
    return synthetic.stored("form_letters", people, seed, users, encode, cache_folder)
