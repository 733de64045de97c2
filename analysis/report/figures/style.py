"""How a strategy and a selection look in every figure: colour, marker and dashes.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind people can
tell apart; a marker and a dash pattern say the same again. On the page a colour is a variable,
so that a dark screen can have a lighter one.
"""

from __future__ import annotations

from dataclasses import dataclass

INK, MUTED, GRID = "#1b1f24", "#5d6670", "#dfe3e8"
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY = "#e69f00", "#56b4e9"
# Colour in a figure -> variable of the page's style sheet.
VARIABLES = {
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
_STRATEGIES = {
    "user_wise": (BLUE, "o"),
    "group_privacy": (VERMILLION, "s"),
    "group_privacy (lemma)": (ORANGE, "v"),
    "concentrated": (GREEN, "^"),
    "matrix_factorization": (PURPLE, "D"),
    "non_private": (MUTED, "X"),
}
_SELECTIONS = {  # random: the strategy's own marker, in a solid line
    "longest": ("^", (0, (5, 2))),
    "shortest": ("v", (0, (2, 2))),
    "high_perplexity": ("D", (0, (7, 2, 2, 2))),
    "low_perplexity": ("s", (0, (1, 1.5))),
    "random_chunk": ("P", (0, (4, 1, 1, 1, 1, 1))),
}
_ORDER = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("solid", (0, (5, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)), (0, (1, 1.5)))


@dataclass(frozen=True, kw_only=True)
class Look:
    """Of one line."""

    colour: str
    marker: str = "o"
    dashes: object = "solid"


def of(strategy: str, selection: str) -> Look:
    """The same in every figure; an unknown strategy is light blue."""
    plain = strategy.partition(" ")[0]
    colour, own = _STRATEGIES.get(strategy) or _STRATEGIES.get(plain, (SKY, "p"))
    usual = "dashed" if strategy == "non_private" else "solid"
    marker, dashes = _SELECTIONS.get(selection, (own, usual))
    return Look(colour=colour, marker=marker, dashes=dashes)


def numbered(number: int) -> Look:
    """Of the number-th line of a figure whose lines are no strategies."""
    return Look(
        colour=_ORDER[number % len(_ORDER)],
        marker=_MARKERS[number % len(_MARKERS)],
        dashes=_DASHES[number % len(_DASHES)],
    )


CLAIM = Look(colour=INK, marker="*")
