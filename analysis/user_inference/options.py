"""Options of the attack: the words ``attack.NAME=VALUE`` of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from userdp.sim.common.bounds import Between
from userdp.sim.config import command_options
from userdp.sim.config.field_types import Closed, Seed, Whole

PREFIX = "attack."


@dataclass(frozen=True, kw_only=True)
class Options(Closed):
    """What the attacker knows, and how sure the intervals are.

    Raises:
        ConfigurationError: a value is out of range.
    """

    texts: Annotated[Whole, Between(1, 10**6)] = 10  # known of each user, at most
    users: Annotated[Whole, Between(1, 10**6)] = 1000  # of each side, at most, drawn at random
    resamples: Annotated[Whole, Between(100, 10**6)] = 1000  # of the bootstrap over users
    seed: Seed = 0  # chooses users and texts, and draws the bootstrap


def parse(words: Sequence[str]) -> tuple[Options, list[str]]:
    """The options, and the words that are not options of the attack.

    Raises:
        ConfigurationError: there is no such option, or a value does not fit.
    """
    return command_options.taken(Options, words, PREFIX)
