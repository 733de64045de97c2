"""Invented names: of people and places, in the public text and with each user, and secret words.

All are made of the same syllables, two for a name and four for a secret word, so that a tokenizer
and a model that know public names can read and write names that they never saw.

>>> chance = random.Random(1)
>>> name(chance), len(secret_word(seed=0, number=5))
('Dutum', 8)
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]  # 70
ENDINGS = ("n", "l", "r", "s", "m", "")


def name(chance: random.Random) -> str:
    """Two syllables and perhaps a consonant, with a capital: one of 29,400 names."""
    return (_syllable(chance) + _syllable(chance) + pick(ENDINGS, chance)).capitalize()


def secret_word(seed: int, number: int) -> str:
    """Eight letters that no other number has: an affine map onto all words of four syllables."""
    size = len(SYLLABLES) ** 4
    place = (number * 9_999_991 + 7_654_321 * (seed + 1)) % size  # coprime to 70: one to one
    digits = [place // len(SYLLABLES) ** power % len(SYLLABLES) for power in range(4)]
    return "".join(SYLLABLES[digit] for digit in digits)


def pick(options: Sequence[str], chance: random.Random) -> str:
    """One of the options, all of the same probability; draws with ``chance.random()`` alone."""
    return options[int(chance.random() * len(options))]


def _syllable(chance: random.Random) -> str:
    return pick(SYLLABLES, chance)
