"""`userdp attack RUN|SWEEP`: can one tell from the adapters who took part; simulation_only.

It reads the private records of the runs, after the fact, and writes rates over users alone: no
statistic of a single user is printed or stored.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from userdp.analysis.user_inference import attack, findings, terminal
from userdp.analysis.user_inference.findings import Claim
from userdp.analysis.user_inference.options import Options, parse
from userdp.sim.common import durable_file, plain_text
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.console import run_summary
from userdp.sim.run_folder import reader
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.run_folder.reader import SIMULATION_ONLY, Run
from userdp.sim.sweep.shared_inputs import SharedInputs

FLAGS = ("--json",)


def main(arguments: Sequence[str]) -> None:
    """Attack the runs of a folder, store a table beside each, and print all as one.

    Raises:
        ConfigurationError: as `measure`.
    """
    attacked = measure([item for item in arguments if item not in FLAGS])
    if "--json" in arguments:
        run_summary.print_json(attacked)
    else:
        terminal.print_attacked(attacked)


def measure(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """What was found for each complete run, by strategy and epsilon; also stored in its folder.

    Raises:
        ConfigurationError: a wrong argument, no complete run in the folder, or a run that cannot be
            attacked: nothing is written then.
    """
    options, folders = parse(arguments)
    if len(folders) != 1:
        raise ConfigurationError(
            f"attack {' '.join(folders)}: name one folder, of a run or of a sweep."
        )
    runs = _runs(Path(folders[0]))
    for run in runs:
        attack.settings_of(RunFolder(run.folder))
    inputs = SharedInputs()
    return [_attacked(run, options, inputs) for run in runs]


def _runs(folder: Path) -> list[Run]:
    """The complete runs at or below a folder, by strategy and epsilon; non-private ones last."""
    if not folder.is_dir():
        raise ConfigurationError(f"attack {folder}: there is no such folder; name one of a run.")
    runs = [run for run in reader.read(folder) if run.complete]
    if not runs:
        raise ConfigurationError(f"attack {folder}: no complete run there, at any depth.")
    return sorted(runs, key=lambda run: (run.level is None, run.strategy, run.level or 0, run.name))


def _attacked(run: Run, options: Options, inputs: SharedInputs) -> dict[str, Any]:
    """Attack one run and store what was found in its folder."""
    print(f"userdp attack: {plain_text.shown(run.name)}", file=sys.stderr, flush=True)
    folder = RunFolder(run.folder)
    measured = attack.attack(folder, options, inputs.load)
    claimed = run.private and run.epsilon is not None
    claim = Claim(
        epsilon=run.epsilon if claimed else None,
        delta=run.statement.get("delta") if claimed else None,
    )
    rows = findings.rows(findings.findings(measured, claim, options), texts=measured.kind)
    _write(folder.user_inference, rows)
    return {
        "run": run.name,
        "strategy": run.strategy
        if run.private or not run.noised
        else f"{run.strategy} (NOT PRIVATE)",
        "epsilon": run.epsilon,
        "delta": claim.delta,
        "canary_exposure": run.summary.get(f"{SIMULATION_ONLY}canary_exposure"),
        "simulation_only": True,
        "groups": rows,
    }


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one line for each group; every column is marked as simulation_only."""
    with durable_file.text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f"{SIMULATION_ONLY}{column}" for column in rows[0]])
        writer.writerows(row.values() for row in rows)
