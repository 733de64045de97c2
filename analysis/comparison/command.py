"""`userdp compare`: strategies x record selections on the same users, budget and gradients a round.

Every run uses the entry point of `userdp run` and leaves the same folder. Runs that are complete
in ``output=`` are not repeated, an interrupted one is resumed. The runs share base model, tokenised
records and scores.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from userdp.analysis.comparison import jobs, ranking
from userdp.analysis.comparison.jobs import Job, Setup
from userdp.analysis.comparison.ranking import Cell
from userdp.clients.batching import unit_records
from userdp.server.mechanisms.base import RECORD_SLOT
from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings
from userdp.sim.inputs import run_inputs
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.planning.planner import Plan
from userdp.sim.protocol.contract import Assignment
from userdp.sim.run import node_setup, prepare, runner, time_estimate
from userdp.sim.run_folder import composed_epsilon, reader
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.sweep.jobs import differing

_REAL = "Real gradients a round come from private record counts, without noise (simulation_only)."
_Key = tuple[str, str, float]  # label of the strategy, selection, epsilon


def main(arguments: Sequence[str]) -> None:
    """Run what is not there yet and print the table; with ``--dry-run`` print what would be run.

    Raises:
        ConfigurationError: before the first run starts, whichever run is wrong.
    """
    setup = jobs.setup([item for item in arguments if item != "--dry-run"])
    comparison = setup.comparison
    first = jobs.grid(comparison, setup.variants, comparison.selections, comparison.epsilons[:1])
    _check(setup, first)
    if "--dry-run" in arguments:
        _print_dry_run(setup, first)
        return
    cells = _cells(setup, first)
    later = jobs.winners(comparison, setup.variants, cells)
    cells += _cells(setup, later)
    _report(setup, cells, [*first, *later])


def gradients_a_round(settings: Settings, inputs: RunInputs) -> float:
    """Expected record gradients of a round, from real record counts: simulation_only.

    Callers ask for it under ``track.simulation_only=true`` alone: it scores private records where
    the selection needs that. It is the number of records that the clients' code fetches for all
    positions that could be drawn, times the sampling rate.
    """
    mechanism = prepare.make_plan(settings, inputs).mechanism
    engine = run_inputs.fit_engine(settings, inputs.model, inputs.probed)
    population = node_setup.host(settings, inputs, engine).population
    positions = np.arange(len(population) * mechanism.group_size)
    assignment = Assignment(users=positions, slots=np.empty(0, np.int64))
    if mechanism.unit == RECORD_SLOT:
        users, slots = divmod(positions, mechanism.group_size)
        assignment = Assignment(users=users, slots=slots)
    contract = mechanism.contract(1, node_setup.local_work(settings))
    fetched = unit_records.fetch(population, contract, assignment)
    return mechanism.sampling_rate * sum(map(len, fetched))


def _check(setup: Setup, first: Sequence[Job]) -> None:
    """Refuse what cannot run; one seed, and one selection at later epsilons, stand for all."""
    comparison = setup.comparison
    later = jobs.grid(
        comparison, setup.variants, comparison.selections[:1], comparison.epsilons[1:]
    )
    for job in [*first, *later]:
        settings, _ = setup.settings(job)
        if _score(settings) is None and job.seed == comparison.seeds[0]:
            prepare.prepare(_resumed(settings), setup.load)


def _cells(setup: Setup, stage: Sequence[Job]) -> list[Cell]:
    """Run the jobs; one cell for the seeds of each strategy, selection and epsilon."""
    scores: dict[_Key, list[float]] = {}
    gradients: dict[_Key, float | None] = {}
    for number, job in enumerate(stage, 1):
        key = (job.label, job.selection, job.epsilon)
        settings, config = setup.settings(job)
        if key not in gradients:
            gradients[key] = _simulated_gradients(setup, settings)
        score, outcome = _score(settings), "was there"
        if score is None:  # how long a run takes depends on private records, so it is not told
            score, outcome = _run(setup, settings, config), "done"
        scores.setdefault(key, []).append(score)
        _log(f"{number}/{len(stage)} {job.name}: held-out perplexity {score:.2f} ({outcome})")
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


def _run(setup: Setup, settings: Settings, config: Mapping[str, Any]) -> float:
    """Held-out perplexity of a run that is done now, its own output hidden."""
    with contextlib.redirect_stdout(io.StringIO()):
        return runner.run(_resumed(settings), config, setup.load).after.perplexity


def _simulated_gradients(setup: Setup, settings: Settings) -> float | None:
    if not settings.track.simulation_only:
        return None
    return gradients_a_round(settings, _inputs(setup, settings))


def _inputs(setup: Setup, settings: Settings) -> RunInputs:
    return setup.load(settings.data, settings.model, settings.seed, settings.device)


def _resumed(settings: Settings) -> Settings:
    """The settings that resume an interrupted run where its ledger ends, if there is one."""
    if not RunFolder(settings.folder).ledger.exists():
        return settings
    return replace(settings, resume=str(settings.folder))


def _score(settings: Settings) -> float | None:
    """Held-out perplexity of a complete run of these settings; None where there is none.

    Raises:
        ConfigurationError: their folder holds a run of other settings.
    """
    folder = settings.folder
    if changed := differing(RunFolder(folder), settings):
        raise ConfigurationError(
            f"output={folder.parent}: {folder.name} was run with another {changed}; "
            "choose a new folder."
        )
    complete = reader.complete([folder])
    return complete[0].summary.get("heldout_perplexity") if complete else None


def _print_dry_run(setup: Setup, first: Sequence[Job]) -> None:
    """Print the names of one seed's runs, and how long all of them train.

    Real gradients are printed beside the names under ``track.simulation_only=true``.
    """
    comparison = setup.comparison
    minutes: dict[str, float] = {}
    for job in [job for job in first if job.seed == comparison.seeds[0]]:
        settings, _ = setup.settings(job)
        inputs = _inputs(setup, settings)
        # The estimate counts the first records of held-out users, whatever the selection.
        if job.label not in minutes:
            minutes[job.label] = _minutes(settings, prepare.make_plan(settings, inputs), inputs)
        real = _simulated_gradients(setup, settings)
        print(job.name if real is None else f"{job.name}: {real:.1f} real gradients a round")
    later = len(comparison.strategies) * len(comparison.seeds) * (len(comparison.epsilons) - 1)
    total = (len(first) + later) * sum(minutes.values()) / len(minutes)
    print(f"{len(first)} runs with all seeds, then {later} of the best selections")
    print(f"training and scoring: about {total:.0f} minutes")


def _minutes(settings: Settings, plan: Plan, inputs: RunInputs) -> float:
    engine = run_inputs.fit_engine(settings, inputs.model, inputs.probed)
    return time_estimate.minutes(settings, plan, inputs, engine) or 0.0


def _report(setup: Setup, cells: Sequence[Cell], all_jobs: Sequence[Job]) -> None:
    """Print the table and write table.md, table.csv and results.json."""
    composed = _composed_epsilon(setup.folder)
    parts = (
        ranking.markdown(cells),
        "\n".join(ranking.differences(cells)),
        "\n".join(_notes(setup, all_jobs, composed)),
    )
    text = "\n\n".join(part for part in parts if part)
    durable_file.replace(setup.folder / "table.md", f"{text}\n".encode())
    durable_file.replace(setup.folder / "table.csv", ranking.comma_separated(cells).encode())
    results = {
        "comparison": asdict(setup.comparison),
        "overrides": setup.overrides,
        "runs": [{**asdict(job), "folder": job.name} for job in all_jobs],
        "cells": [ranking.plain(cell) for cell in ranking.ranked(cells)],
        "epsilon_of_all_runs": composed,
    }
    durable_file.replace(
        setup.folder / "results.json", (json.dumps(results, indent=2) + "\n").encode()
    )
    print(text)


def _notes(setup: Setup, all_jobs: Sequence[Job], composed: float | None) -> list[str]:
    settings, _ = setup.settings(all_jobs[0])
    before = reader.read(settings.folder)[0].summary["heldout_perplexity_before"]
    together = "no certified epsilon" if composed is None else f"epsilon {composed:.3g}"
    return [
        f"Rounds: {settings.rounds}. Cohort: {settings.cohort:g}. k: "
        f"{settings.strategy.records_per_user}. Equal expected gradients a round. "
        f"Held-out perplexity of the base model: {before:.2f}.",
        f"Seeds ({', '.join(map(str, setup.comparison.seeds))}) change selection and "
        "initialisation; coins and noise are fresh in every run; the held-out users are the same.",
        *([_REAL] if settings.track.simulation_only else []),
        f"Every epsilon covers its run alone. Together, the runs ({len(all_jobs)}) have "
        f"{together}.",
    ]


def _composed_epsilon(folder: Path) -> float | None:
    """The composed epsilon of all ledgers in the folder; None where no finite one is certified."""
    try:
        upper = composed_epsilon.of_sweep(folder).composed_upper
    except (ValueError, ArithmeticError):  # hardly any noise
        return None
    return upper if np.isfinite(upper) else None


def _log(text: str) -> None:
    print(f"userdp compare: {text}", file=sys.stderr, flush=True)
