"""`userdp compare`: strategies x record selections on the same users, budget and gradients a round.

Every run goes through the entry point that `userdp run` uses and leaves the same folder. Runs that
are complete in ``output=`` are not repeated, an interrupted one is resumed. The runs share base
model, tokenised records and scores.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from userdp.analysis.comparison import jobs as comparison
from userdp.analysis.comparison import ranking
from userdp.analysis.comparison.jobs import Job, Setup
from userdp.analysis.comparison.ranking import Cell
from userdp.clients.batching import unit_records
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings
from userdp.sim.planning.planner import Plan
from userdp.sim.protocol import messages
from userdp.sim.run import inputs, node_setup, prepare, runner, time_estimate
from userdp.sim.run.inputs import World
from userdp.sim.run_folder import composed_epsilon, reader
from userdp.sim.sweep.jobs import differing


def main(arguments: Sequence[str]) -> None:
    """Run what is not there yet and print the table; with ``--dry-run`` say what would be run.

    Raises:
        ConfigurationError: before the first run starts, whichever run is wrong.
    """
    setup = comparison.setup([item for item in arguments if item != "--dry-run"])
    first = comparison.grid(setup.asked, setup.asked.selections, setup.asked.epsilons[:1])
    _check(setup, first)
    if "--dry-run" in arguments:
        _print_jobs(setup, first)
        return
    cells = _cells(setup, first)
    second = comparison.winners(setup.asked, cells)
    cells += _cells(setup, second)
    _report(setup, cells, [*first, *second])


def gradients_a_round(settings: Settings, here: World) -> float:
    """Expected record gradients of a round, from real record counts: simulation_only.

    What the clients' own code fetches for every position that could be drawn, times q.
    """
    plan = prepare.plan(settings, here)
    mechanism = plan.mechanism
    population = node_setup.train_population(settings, here, inputs.engine(settings, here))
    positions = np.arange(len(population) * mechanism.group_size)
    assignment = messages.Assignment(users=positions, slots=np.empty(0, np.int64))
    if mechanism.unit == "record_slot":
        users, slots = divmod(positions, mechanism.group_size)
        assignment = messages.Assignment(users=users, slots=slots)
    contract = node_setup.contract(settings, plan)
    fetched = unit_records.fetch(population, contract, assignment)
    return mechanism.sampling_rate * sum(map(len, fetched))


def _check(setup: Setup, first: Sequence[Job]) -> None:
    """Refuse what cannot run; one seed and, at the other epsilons, one selection speak for all."""
    asked = setup.asked
    others = comparison.grid(asked, asked.selections[:1], asked.epsilons[1:])
    for job in [*first, *others]:
        settings, config = setup.settings(job)
        if _score(settings.folder, config) is None and job.seed == asked.seeds[0]:
            prepare.prepare(_resumed(settings), setup.load)


def _cells(setup: Setup, jobs: Sequence[Job]) -> list[Cell]:
    """Carry out the jobs; one cell for the seeds of each strategy, selection and epsilon."""
    scores: dict[tuple[str, str, float], list[float]] = {}
    gradients: dict[tuple[str, str, float], float] = {}
    for number, job in enumerate(jobs, 1):
        settings, config = setup.settings(job)
        begin, key = time.monotonic(), (job.label, job.selection, job.epsilon)
        if key not in gradients:
            here = setup.load(settings.data, settings.model, settings.seed, settings.device)
            gradients[key] = gradients_a_round(settings, here)
        score = _score(settings.folder, config)
        there = "was there" if score is not None else ""
        if score is None:
            with contextlib.redirect_stdout(io.StringIO()):
                score = runner.run(_resumed(settings), config, setup.load).after.perplexity
        scores.setdefault(key, []).append(score)
        seconds = there or f"{time.monotonic() - begin:.0f} s"
        _tell(f"{number}/{len(jobs)} {job.name}: held-out perplexity {score:.2f} ({seconds})")
    return [
        Cell(
            strategy=key[0],
            selection=key[1],
            epsilon=key[2],
            gradients=gradients[key],
            perplexities=tuple(values),
        )
        for key, values in scores.items()
    ]


def _resumed(settings: Settings) -> Settings:
    """An interrupted run goes on where its ledger ends."""
    if not (settings.folder / "ledger.jsonl").exists():
        return settings
    return replace(settings, resume=str(settings.folder))


def _score(folder: Path, config: Mapping[str, Any]) -> float | None:
    """Held-out perplexity of a complete run in the folder; None where there is none.

    Raises:
        ConfigurationError: the folder holds a run of another configuration.
    """
    if wrong := differing(folder, config):
        raise ConfigurationError(
            f"output={folder.parent}: {folder.name} was run with another {wrong}; "
            "choose a new folder."
        )
    complete = reader.complete([folder])
    return complete[0].summary.get("heldout_perplexity") if complete else None


def _print_jobs(setup: Setup, first: Sequence[Job]) -> None:
    """Names and real gradients of one seed's runs, and how long all of them train."""
    asked, minutes = setup.asked, {}
    for job in [job for job in first if job.seed == asked.seeds[0]]:
        settings, _ = setup.settings(job)
        here = setup.load(settings.data, settings.model, settings.seed, settings.device)
        if (
            job.label not in minutes
        ):  # every record counts at full length: selections take equally long
            plan = prepare.plan(settings, here)
            minutes[job.label] = _minutes(settings, plan, here)
        print(f"{job.name}: {gradients_a_round(settings, here):.1f} real gradients a round")
    later = len(asked.strategies) * len(asked.seeds) * (len(asked.epsilons) - 1)
    total = (len(first) + later) * sum(minutes.values()) / len(minutes)
    print(f"{len(first)} runs with all seeds, then {later} of the best selections")
    print(f"training: at most about {total:.0f} minutes; scoring comes on top")


def _minutes(settings: Settings, plan: Plan, here: World) -> float:
    size = inputs.engine(settings, here).max_tokens
    return time_estimate.minutes(settings, plan, here, size) or 0.0


def _report(setup: Setup, cells: Sequence[Cell], jobs: Sequence[Job]) -> None:
    """Print the table and write table.md, table.csv and results.json."""
    together = _epsilon_of_all(setup.folder)
    parts = (
        ranking.markdown(cells),
        "\n".join(ranking.differences(cells)),
        "\n".join(_notes(setup, jobs, together)),
    )
    told = "\n\n".join(part for part in parts if part)
    setup.folder.mkdir(parents=True, exist_ok=True)
    (setup.folder / "table.md").write_text(told + "\n")
    (setup.folder / "table.csv").write_text(ranking.comma_separated(cells))
    results = {
        "comparison": asdict(setup.asked),
        "overrides": setup.overrides,
        "runs": [{**asdict(job), "folder": job.name} for job in jobs],
        "simulation_only": ["gradients"],
        "cells": [asdict(cell) | {"mean": cell.mean} for cell in ranking.ranked(cells)],
        "epsilon_of_all_runs": together,
    }
    (setup.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(told)


def _notes(setup: Setup, jobs: Sequence[Job], together: float | None) -> list[str]:
    settings, _ = setup.settings(jobs[0])
    before = reader.read(settings.folder)[0].summary["heldout_perplexity_before"]
    every = "no certified epsilon" if together is None else f"epsilon {together:.3g}"
    return [
        f"Rounds: {settings.rounds}. Cohort: {settings.cohort:g}. k: "
        f"{settings.strategy.records_per_user}. Equal expected gradients a round. "
        f"Held-out perplexity of the base model: {before:.2f}.",
        f"Seeds ({', '.join(map(str, setup.asked.seeds))}) change selection and initialisation; "
        "coins and noise are fresh in every run; the held-out users are the same.",
        "Real gradients a round come from private record counts, without noise (simulation_only).",
        f"Every epsilon covers its run alone. Together, the runs ({len(jobs)}) have {every}.",
    ]


def _epsilon_of_all(folder: Path) -> float | None:
    """What all ledgers in the folder add up to; None where no finite epsilon is certified."""
    try:
        upper = composed_epsilon.of_sweep(folder).composed_upper
    except (ValueError, ArithmeticError):  # hardly any noise
        return None
    return upper if np.isfinite(upper) else None


def _tell(text: str) -> None:
    print(f"userdp compare: {text}", file=sys.stderr, flush=True)
