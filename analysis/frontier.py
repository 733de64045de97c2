"""The privacy-utility frontier of a sweep: each strategy's best mean score at each epsilon."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from analysis.folders import RunFolder

SCORES = ("heldout_loss", "heldout_perplexity", "heldout_accuracy")
_HIGHER = {"heldout_accuracy"}  # is better
_ASKED = (  # what makes a setting, beside strategy and epsilon
    *("records_per_user", "selection", "rounds", "cohort", "lora_r", "learning_rate"),
    *("clip_norm", "data"),
)
Line = list[tuple[float, float]]  # (epsilon, score), epsilon ascending


def rows(
    runs: Sequence[RunFolder], figures: Callable[[RunFolder], Mapping[str, Any]] = RunFolder.summary
) -> list[dict[str, Any]]:
    """One row a run: what it was asked for, its claim, and its ``figures``."""
    return [
        {
            **run.cells(),
            "rounds": run.config["rounds"],
            "cohort": run.config["cohort"],
            "lora_r": run.config["model"]["lora"]["r"],
            "learning_rate": run.config.get("optimizer", {}).get("lr"),
            "clip_norm": run.config["strategy"].get("clip_norm"),
            "data": run.config["data"].get("path") or run.config["data"]["format"],
            "private": run.statement["private"],
            "claim_epsilon": run.statement["epsilon"],
            "claim_delta": run.statement["delta"],
            **{k: v for k, v in figures(run).items() if k not in ("epsilon", "delta")},
        }
        for run in runs
    ]


def lines(table: Sequence[Mapping[str, Any]], score: str) -> dict[str, Line]:
    """By strategy: at each epsilon the best setting's mean over its seeds.

    Runs that agree in k, selection, rounds, cohort, rank, learning rate, clip norm and data are one
    setting. Scores are those of held-out users, who are public, but the best of many settings is
    flattered by the choice: it is no estimate for new users. A strategy without privacy has no
    epsilon; its best mean is a level line over the epsilons of the others, if there are others.
    """
    cells: dict[tuple[str, float | None, str], list[float]] = defaultdict(list)
    for row in table:
        if row.get(score) is not None:
            cells[row["strategy"], row["epsilon"], _setting(row)].append(row[score])
    means: dict[str, dict[float | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (strategy, epsilon, _), values in cells.items():
        means[strategy][epsilon].append(fmean(values))
    choose = max if score in _HIGHER else min
    epsilons = sorted({eps for found in means.values() for eps in found if eps is not None})
    drawn = {}
    for strategy, found in sorted(means.items()):
        level = found.get(None)
        points = [(e, choose(found.get(e) or level or [])) for e in epsilons if e in found or level]
        if points:
            drawn[strategy] = points
    return drawn


def _setting(row: Mapping[str, Any]) -> str:
    return json.dumps([row.get(name) for name in _ASKED])
