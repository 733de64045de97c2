"""Colour, marker and dashes of each strategy and selection, the same in every figure.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind people can
tell apart; markers and dash patterns repeat the distinction. On the page a colour becomes a CSS
variable, so that the dark scheme can use a lighter one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

INK, MUTED, GRID = "#1b1f24", "#5d6670", "#dfe3e8"
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY = "#e69f00", "#56b4e9"
VARIABLES = {  # colour in a figure -> variable of the page's style sheet
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    BLUE: "--blue",
    VERMILLION: "--vermillion",
    GREEN: "--green",
    PURPLE: "--purple",
    ORANGE: "--orange",
    SKY: "--sky",
}
# Chosen looks. A strategy or rule that is not listed gets one from the palettes below by its name.
_STRATEGIES = {
    "user_wise": (BLUE, "o", "solid"),
    "group_privacy": (VERMILLION, "s", "solid"),
    "group_privacy (lemma)": (ORANGE, "v", "solid"),
    "concentrated": (GREEN, "^", "solid"),
    "matrix_factorization": (PURPLE, "D", "solid"),
    "non_private": (MUTED, "X", "dashed"),
}
_RULES = {
    "longest": ("^", (0, (5, 2))),
    "shortest": ("v", (0, (2, 2))),
    "high_perplexity": ("D", (0, (7, 2, 2, 2))),
    "low_perplexity": ("s", (0, (1, 1.5))),
    "random_chunk": ("P", (0, (4, 1, 1, 1, 1, 1))),
}
_USUAL_RULES = ("random", "")  # drawn in the strategy's own marker
_FREE_STRATEGIES = tuple(
    (colour, marker, "solid") for marker in "phd<>" for colour in (SKY, ORANGE)
)
_FREE_RULES = tuple((marker, (0, (3, 1.5, 1, 1.5))) for marker in "<>hdp")
_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("solid", (0, (5, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)), (0, (1, 1.5)))
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one line or series of marks is drawn."""

    colour: str
    marker: str = "o"
    dashes: Any = "solid"  # a line style of matplotlib


CLAIM = Look(colour=INK, marker="*")


def of(strategy: str, selection: str) -> Look:
    """The look of a strategy's line with a selection rule, whatever else a figure shows.

    Args:
        strategy: a name, perhaps with a remark behind a space, as in "user_wise (NOT PRIVATE)".
        selection: the rule; the usual one is drawn as the strategy's entry says.
    """
    name = strategy.partition(" ")[0]
    dashes: Any
    colour, marker, dashes = (
        _STRATEGIES.get(strategy) or _STRATEGIES.get(name) or _by_name(name, _FREE_STRATEGIES)
    )
    if selection not in _USUAL_RULES:
        marker, dashes = _RULES.get(selection) or _by_name(selection, _FREE_RULES)
    return Look(colour=colour, marker=marker, dashes=dashes)


def _by_name(name: str, palette: Sequence[Item]) -> Item:
    """The same entry in every process and on every machine, unlike `hash`."""
    return palette[zlib.crc32(name.encode()) % len(palette)]


def numbered(number: int) -> Look:
    """The look of the number-th line in a figure whose lines are not strategies."""
    return Look(
        colour=_COLOURS[number % len(_COLOURS)],
        marker=_MARKERS[number % len(_MARKERS)],
        dashes=_DASHES[number % len(_DASHES)],
    )
