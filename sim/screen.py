"""What a person sees in the terminal: the plan before a run, the outcome after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich.box
import rich.console
import rich.table

from server.mechanism import Mechanism
from sim.planning import Plan


def print_start(
    plan: Plan, *, model: str, adapter_size: int, minutes: float | None,
    reproducible: bool, real: Mapping[str, Any],
) -> None:  # fmt: skip
    """The start-up block: public values only, and real counts where simulation_only is on."""
    mechanism = plan.mechanism
    rows = {
        "declared users": f"{mechanism.users:,}",
        "model": f"{model}, adapter of {adapter_size:,} parameters",
        "mechanism": _mechanism(mechanism),
        "rounds": f"{plan.rounds}, q = {mechanism.sampling_rate:.4g}, "
        f"{mechanism.expected_units:g} units expected a round",
        "noise": f"z = {mechanism.noise_multiplier:g}, C = {mechanism.clip_norm:g}",
        "claim": claim(plan, reproducible),
        "expected time": "open, since k is" if minutes is None else _time(minutes),
        **{f"simulation_only: {name}": f"{value:,}" for name, value in real.items()},
    }
    _print_rows("userdp run", rows)


def print_end(folder: Path, before: float, after: float, prose: str) -> None:
    """The closing summary: scores, where things are, and the claim last."""
    gain = "" if after < before else "  (training did not help here)"
    rows = {
        "held-out perplexity": f"{before:.2f} before, {after:.2f} after{gain}",
        "adapter": f"{folder / 'adapter'}",
        "statement": f"{folder / 'privacy_statement.json'}",
        "run folder": f"{folder}",
    }
    _print_rows("outcome", rows)
    rich.console.Console(highlight=False).print(prose.split("\n\n")[0])


def print_plan(described: Mapping[str, Any], *, as_json: bool) -> None:
    """The answer of ``userdp plan``."""
    if as_json:
        print(json.dumps(described, indent=2))
        return
    epsilon = described["epsilon"]
    rows = {
        "strategy": f"{described['strategy']}, k = {described['records_per_user']}",
        "rounds": f"{described['rounds']}, q = {described['sampling_rate']:.4g}, "
        f"{described['expected_cohort']:g} units expected a round",
        "noise multiplier z": f"{described['noise_multiplier']:.6g}",
        "noise std on the mean": f"{described['noise_std_on_mean']:.4g}",
        "epsilon": f"{_figure(epsilon['upper'])} (certified; at least {_figure(epsilon['lower'])}) "
        f"at delta {described['delta']:.3g}",
    }
    for name, figures in described["accountants"].items():
        bound = f", {figures['group_bound']}" if "group_bound" in figures else ""
        own = figures["noise_multiplier"]
        asks = "" if own is None else f"; would ask z = {own:.4g} for the target"
        rows[f"  {name}{bound}"] = f"{_figure(figures['epsilon'])}{asks}"
    _print_rows("userdp plan", rows)


def claim(plan: Plan, reproducible: bool) -> str:
    """One line: what the whole run will cost."""
    if not plan.mechanism.private:
        return "NOT PRIVATE: no clip, no noise"
    text = f"epsilon <= {_figure(plan.epsilon.upper)} (at least {_figure(plan.epsilon.lower)}) "
    text += f"at delta = {plan.delta:.3g}, {plan.accountant}"
    if plan.mechanism.group_size > 1:
        text += f", {plan.group_bound}"
    return f"NOT PRIVATE (privacy.reproducible=true); would be {text}" if reproducible else text


def _mechanism(mechanism: Mechanism) -> str:
    k = mechanism.records_per_user or "all"
    words = {
        "user": f"user-wise: the mean over a user's {k} records, clipped",
        "record_slot": f"Group Privacy: {k} record slots a user, each clipped",
    }
    return words[mechanism.unit] if mechanism.private else f"none: the mean over {k} records a user"


def _time(minutes: float) -> str:
    return f"at most about {max(0.1, minutes):.1f} minutes of training"


def _figure(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"


def _print_rows(title: str, rows: Mapping[str, str]) -> None:
    table = rich.table.Table(
        title=title, title_justify="left", box=rich.box.SIMPLE, show_header=False
    )
    for name, value in rows.items():
        table.add_row(name, value)
    rich.console.Console(highlight=False).print(table)
