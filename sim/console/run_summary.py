"""Prints the plan before a run and the outcome after it, as rows of title and value.

On a terminal long values are wrapped and indented; in a file or a pipe every value is one line.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from userdp.clients.generation.sample import Sample
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.noise_grid import FLOAT
from userdp.server.statement import prose
from userdp.sim.common import plain_text
from userdp.sim.console import samples_table
from userdp.sim.planning.noise_estimate import NoiseEstimate
from userdp.sim.planning.planner import Plan
from userdp.sim.run_folder.layout import RunFolder

_DIGITS = 4  # significant digits of a printed figure


def print_start(
    plan: Plan,
    *,
    model: str,
    minutes: float | None,
    reproducible: bool,
    real: Mapping[str, int],
) -> None:
    """Print the parameters of a run before its first round: public values only.

    Args:
        model: name and size.
        minutes: expected training time; None where it cannot be known.
        reproducible: whether the noise replays from a seed, so that the run is not private.
        real: true counts of users and records, by name; empty unless ``track.simulation_only``.
    """
    mechanism = plan.mechanism
    rows = {
        "declared users": f"{mechanism.users:,}",
        "model": model,
        "mechanism": mechanism.console(),
        "rounds": f"{plan.rounds}, q = {mechanism.sampling_rate:.{_DIGITS}g}, "
        f"{mechanism.expected_units:g} units expected a round",
        "noise": f"z = {mechanism.noise_multiplier:.10g}, {_clip(mechanism)}{_kind(mechanism)}",
        **mechanism.console_rows(),
        "claim": claim(plan, reproducible),
        "expected time": "open, since k is" if minutes is None else _time(minutes),
        **{f"simulation_only: {name}": f"{value:,}" for name, value in real.items()},
    }
    public = reproducible or not mechanism.private
    print_rows("NOT PRIVATE: userdp run" if public else "userdp run", rows)


def print_end(
    folder: RunFolder,
    scores: Mapping[str, str],
    statement: Mapping[str, Any],
    samples: Sequence[Sample] = (),
) -> None:
    """Print the end of a run: samples, its scores, the places of its files, and last the claim.

    Args:
        scores: rows of title and value.
        statement: the privacy statement.
        samples: texts of base and adapter.
    """
    rows = {
        **scores,
        "adapter": f"{folder.adapter}",
        "statement": f"{folder.statement}",
        "run folder": f"{folder.path}",
    }
    samples_table.print_closing(samples, private=statement["private"])
    print_rows("outcome" if statement["private"] else "NOT PRIVATE: outcome", rows)
    print(_wrapped("", prose.claim(statement)), flush=True)


def print_json(value: Any) -> None:
    """Print plain values as JSON.

    Raises:
        ValueError: a number is infinite or NaN.
    """
    print(json.dumps(value, indent=2, allow_nan=False))


def print_plan(described: Mapping[str, Any], plan: Plan) -> None:
    """Print a plan as rows.

    Args:
        described: `userdp.sim.planning.planner.described` of the plan.
    """
    rows = {
        "strategy": f"{described['strategy']}, k = {described['records_per_user']}",
        "rounds": f"{described['rounds']}, q = {described['sampling_rate']:.{_DIGITS}g}, "
        f"{described['expected_cohort']:g} units expected a round",
        "noise multiplier z": f"{described['noise_multiplier']:.10g}",
        "noise std on the mean": f"{described['noise_std_on_mean']:.{_DIGITS}g}",
        **plan.mechanism.console_rows(),
        "claim": claim(plan, reproducible=False),
    }
    if "cohort_cap" in described:
        rows["cap"] = (
            f"{described['cohort_cap']} users a round; without it the same noise gives epsilon <= "
            f"{upper(described['epsilon_without_cap'])}"
        )
    if plan.mechanism.private:
        rows["other accountants"] = "userdp plan --json"
    print_rows("userdp plan", rows)


def claim(plan: Plan, reproducible: bool) -> str:
    """The epsilon that the whole run will cost, in one line."""
    if not plan.mechanism.private:
        return "NOT PRIVATE: no clip, no noise"
    least = prose.round_down(plan.epsilon.lower, _DIGITS)
    text = f"epsilon <= {upper(plan.epsilon.upper)} (at least {_figure(least)}) "
    text += f"at delta = {upper(plan.delta)}, {plan.accountant}"
    if plan.mechanism.group_size > 1:
        text += f", {plan.group_bound}"
    if plan.noise_estimate is not None:
        text += f"; {_estimate(plan.noise_estimate)}"
    return f"NOT PRIVATE (privacy.reproducible=true); would be {text}" if reproducible else text


def _estimate(estimate: NoiseEstimate) -> str:
    target = "" if estimate.target is None else f" for the target {estimate.target:g}"
    name = estimate.accountant.capitalize()
    return f"the {name} estimate{target} is {estimate.epsilon:.{_DIGITS}g}, no bound"


def upper(value: float | None) -> str:
    """An upper value in four digits, rounded up; None is infinite."""
    return _figure(None if value is None else prose.round_up(value, _DIGITS))


def _figure(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.{_DIGITS}g}"


def _clip(mechanism: Mechanism) -> str:
    start = f"C = {mechanism.clip_norm:g}"
    rule = mechanism.adaptive
    return start if rule is None else f"{start} at first, then the {rule.quantile:g} quantile"


def _kind(mechanism: Mechanism) -> str:
    return f", {mechanism.noise}" if mechanism.noise != FLOAT else ""


def _time(minutes: float) -> str:
    return f"about {max(0.1, minutes):.1f} minutes"


def print_rows(title: str, rows: Mapping[str, str]) -> None:
    """Print a title, and below it the rows with their names aligned."""
    width = max(map(len, rows))
    lines = [_wrapped(f"  {name:<{width}}  ", value) for name, value in rows.items()]
    print("\n".join([title, *lines]), flush=True)


def _wrapped(prefix: str, text: str) -> str:
    """The text after its prefix; on a terminal, further lines are indented by the prefix."""
    text = plain_text.printable(text)
    if not sys.stdout.isatty():
        return prefix + text
    return textwrap.fill(
        prefix + text,
        width=shutil.get_terminal_size().columns,
        subsequent_indent=" " * len(prefix),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
