"""A sample: one prompt, and what the base model and the adapted one write after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BEGINNING = ""  # the prompt that stands for the beginning of a text


@dataclass(frozen=True)
class Sample:
    """A prompt and its two continuations, each without the prompt."""

    prompt: str  # public: whoever named it says so
    base: str
    adapter: str  # by base and adapter

    def texts(self) -> tuple[str, str, str]:
        """Its three texts, in this order."""
        return self.prompt, self.base, self.adapter


def spread(prompts: Sequence[str], count: int) -> list[str]:
    """``count`` prompts: the given ones in turn, or the beginning of a text where none is given.

    >>> spread(["a", "b"], 3), spread([], 2)
    (['a', 'b', 'a'], ['', ''])
    """
    given = list(prompts) or [BEGINNING]
    return [given[number % len(given)] for number in range(count)]
