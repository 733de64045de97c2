"""Ranks the cells of a comparison by held-out perplexity, and tells differences from seed noise.

A cell is one strategy, selection and epsilon, with the perplexities of its seeds.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from userdp.sim.common import plain_text

_GRADIENTS = "real gradients a round (simulation_only)"
_SCORE = "held-out perplexity, mean [min, max]"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the table."""

    strategy: str
    selection: str
    epsilon: float
    gradients: float | None  # expected of a round, real counts; None without simulation_only
    perplexities: tuple[float, ...]  # one for each seed

    @property
    def mean(self) -> float:
        """Mean perplexity over the seeds."""
        return sum(self.perplexities) / len(self.perplexities)

    @property
    def spread(self) -> float:
        """Range of the perplexities over the seeds."""
        return max(self.perplexities) - min(self.perplexities)

    @property
    def name(self) -> str:
        """Strategy and selection."""
        return f"{self.strategy}, {self.selection}"


def ranked(cells: Sequence[Cell]) -> list[Cell]:
    """The cells by ascending epsilon, and within an epsilon by mean, the best first."""
    return sorted(cells, key=lambda cell: (cell.epsilon, cell.mean))


def markdown(cells: Sequence[Cell]) -> str:
    """The ranking as one Markdown table; real gradients only where every cell has them."""
    real = _simulated(cells)
    rows = [["strategy", "selection", "epsilon", *([_GRADIENTS] if real else []), _SCORE]]
    rows.append(["---", "---", *["---:"] * (len(rows[0]) - 2)])
    rows += [
        [
            *map(plain_text.markdown, (cell.strategy, cell.selection, f"{cell.epsilon:g}")),
            *([f"{cell.gradients:.1f}"] if real else []),
            f"{cell.mean:.2f} [{min(cell.perplexities):.2f}, {max(cell.perplexities):.2f}]",
        ]
        for cell in ranked(cells)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def comma_separated(cells: Sequence[Cell]) -> str:
    """The ranking as CSV, with the perplexity of every seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    seeds = max(len(cell.perplexities) for cell in cells)
    names = [f"perplexity_{number}" for number in range(1, seeds + 1)]
    real = _simulated(cells)
    gradients = ["simulation_only/gradients_a_round"] if real else []
    writer.writerow(["strategy", "selection", "epsilon", *gradients, "mean", *names])
    for cell in ranked(cells):
        start = [cell.strategy, cell.selection, cell.epsilon, *([cell.gradients] if real else [])]
        writer.writerow(plain_text.row([*start, cell.mean, *cell.perplexities]))
    return text.getvalue()


def plain(cell: Cell) -> dict[str, Any]:
    """A cell as plain values; real gradients under the prefix of such figures, or not at all."""
    values = asdict(cell) | {"mean": cell.mean}
    gradients = values.pop("gradients")
    return values | ({} if gradients is None else {"simulation_only/gradients": gradients})


def _simulated(cells: Sequence[Cell]) -> bool:
    return all(cell.gradients is not None for cell in cells)


def differences(cells: Sequence[Cell]) -> list[str]:
    """One line for each pair of neighbours in the ranking of one epsilon."""
    return [
        _difference(better, worse)
        for better, worse in itertools.pairwise(ranked(cells))
        if better.epsilon == worse.epsilon
    ]


def best(cells: Sequence[Cell], epsilon: float) -> Cell:
    """The cell with the lowest mean at an epsilon; the first of equals.

    Raises:
        ValueError: no cell has this epsilon.
    """
    return min((cell for cell in cells if cell.epsilon == epsilon), key=lambda cell: cell.mean)


def _difference(better: Cell, worse: Cell) -> str:
    """Whether two means are further apart than the seeds of either cell are."""
    gap, spread = worse.mean - better.mean, max(better.spread, worse.spread)
    text = (
        f"- epsilon {better.epsilon:g}: {better.name} before {worse.name}: "
        f"means differ by {gap:.2f}, "
    )
    if min(len(better.perplexities), len(worse.perplexities)) < 2:
        return text + "one seed has no range to compare with"
    verdict = "exceeds the range" if gap > spread else "within the range"
    return text + f"larger range {spread:.2f}: {verdict}"
