"""Medians and ratios of the turns of a benchmark, shown as a table and appended to a CSV file."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich.box
import rich.console
import rich.table

from userdp.analysis.benchmark import flops
from userdp.analysis.benchmark.peers.work import Work
from userdp.analysis.benchmark.processes import Spread, ratio
from userdp.sim.common import plain_text

_WIDTH = 120  # characters of a table that is not printed to a terminal
Answers = Mapping[str, Sequence[Mapping[str, Any]]]  # side -> its answer in each turn


def ours(name: str) -> str:
    """The round of ours that a side is compared with: Opacus clips records, all others users."""
    return "record_round" if name in ("opacus", "record_round") else "round"


def figures(
    answers: Answers, work: Work, peak_tflops: float | None, machines: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """All figures of one benchmark as JSON values.

    Args:
        answers: of each side, one for each turn.
        work: what each side did in a turn.
        peak_tflops: the card's dense rate in the base model's dtype; None: from the table of cards.
        machines: of each side, the machine and packages it ran on.
    """
    operations = flops.training(work.spec, work.lengths.tolist())
    first = next(iter(machines.values()), {})
    if peak_tflops is None and first.get("gpu"):
        peak_tflops = flops.peak_tflops(first["gpu"])
    sides = {}
    for name, turns in answers.items():
        seconds = Spread.of([turn["seconds"] for turn in turns])
        rate = sum(operations.values()) / seconds.median / 1e12
        sides[name] = {
            "seconds": asdict(seconds),
            "tokens_a_second": turns[0]["tokens"] / seconds.median,
            **_memory(turns),
            "useful_tflops": rate,
            "share_of_peak": rate / peak_tflops if peak_tflops else None,
            "of_plain": _of(answers, name, "plain"),
            "of_round": _of(answers, name, ours(name)),
        }
    return {
        "tokens": int(work.lengths.sum()),
        "records": len(work.lengths),
        "operations": operations,
        "peak_tflops": peak_tflops,
        "machine": first,
        "environments": _environments(machines, first),
        "round_of_fused_plain": _of(answers, "round", "fused_plain")
        if "round" in answers
        else None,
        "sides": sides,
    }


def cohort_figures(answers: Answers, machines: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Time a user and peak memory of each cohort, and the largest over the smallest of both.

    A round's fixed cost weighs on the time a user of small cohorts. ``seconds_a_user_more`` is free
    of it: the additional time over the next smaller cohort, for each additional user.

    Args:
        answers: cohort size, as text -> its answers.
        machines: as for `figures`.
    """
    rows: dict[str, dict[str, Any]] = {}
    medians = {
        int(n): Spread.of([t["seconds"] for t in turns]).median for n, turns in answers.items()
    }
    for name, turns in answers.items():
        seconds = Spread.of([turn["seconds"] / int(name) for turn in turns])
        smaller = [users for users in medians if users < int(name)]
        seconds_more = None
        if smaller:
            last = max(smaller)
            seconds_more = (medians[int(name)] - medians[last]) / (int(name) - last)
        rows[name] = {"seconds_a_user": asdict(seconds), "seconds_a_user_more": seconds_more}
        rows[name] |= _memory(turns)
    times = [row["seconds_a_user"]["median"] for row in rows.values()]
    peaks = [row["peak_bytes"] for row in rows.values() if row["peak_bytes"]]
    return {
        "machine": next(iter(machines.values()), {}),
        "cohorts": rows,
        "spread_of_time": max(times) / min(times),
        "spread_of_memory": max(peaks) / min(peaks) if peaks else None,
    }


def show(results: Mapping[str, Any]) -> None:
    """Print one table and a few lines of notes."""
    console = rich.console.Console(highlight=False)
    if not console.is_terminal:
        console = rich.console.Console(highlight=False, width=_WIDTH)
    console.print(_cohort_table(results) if "cohorts" in results else _table(results))
    for line in [*results.get("left_out", ()), *_notes(results), _machine_line(results["machine"])]:
        console.print(line, markup=False, soft_wrap=True)


def append(path: str, results: Mapping[str, Any]) -> None:
    """Append a row for each side or cohort to a CSV file; a new file gets a header.

    Raises:
        OSError: the file cannot be written.
        ValueError: the file has other columns.
    """
    rows = [
        _row(name, side, results)
        for name, side in (results.get("sides") or results["cohorts"]).items()
    ]
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0])
    if place.exists() and place.stat().st_size:
        with place.open(newline="", encoding="utf-8") as lines:
            if next(csv.reader(lines)) != columns:
                raise ValueError("the file holds other columns; name a new one.")
    with place.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, columns)
        if not lines.tell():
            writer.writeheader()
        writer.writerows(map(plain_text.row, rows))


def _row(name: str, side: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {"date": datetime.date.today().isoformat(), "side": name}
    for key, value in side.items():
        if key in ("seconds", "seconds_a_user", "of_plain", "of_round"):
            spread = value or {"median": None, "least": None, "most": None}
            flat |= {f"{key}_{part}": _short(number) for part, number in spread.items()}
        else:
            flat[key] = json.dumps(value) if isinstance(value, dict | list) else _short(value)
    return {
        **flat,
        "shape": json.dumps(results["shape"]),
        "machine": json.dumps(results["machine"]),
    }


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _memory(turns: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    return {
        key: None if turns[0][key] is None else max(turn[key] for turn in turns)
        for key in ("peak_bytes", "gpu_peak_bytes")
    }


def _of(answers: Answers, name: str, other: str) -> dict[str, float] | None:
    return asdict(ratio(answers[name], answers[other])) if other in answers else None


def _environments(
    machines: Mapping[str, dict[str, Any]], first: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The values of each side's machine and packages that differ from the first side's."""
    return {
        name: {key: value for key, value in machine.items() if first.get(key) != value}
        for name, machine in machines.items()
    }


def _table(results: Mapping[str, Any]) -> rich.table.Table:
    gpu = bool(results["machine"].get("gpu"))
    columns = ["", "median s", "range", "tokens/s", "of plain", "of round", "peak MB"]
    columns += ["GPU MB", "TFLOP/s", "of peak"] if gpu else []
    table = rich.table.Table(*columns, title="userdp bench", box=rich.box.SIMPLE)
    for name, side in results["sides"].items():
        seconds = side["seconds"]
        cells = [name, f"{seconds['median']:.3f}", f"{seconds['least']:.3f}-{seconds['most']:.3f}"]
        cells += [f"{side['tokens_a_second']:,.0f}"]
        cells += [_ratio(side["of_plain"]), _ratio(side["of_round"]), _mega(side["peak_bytes"])]
        if gpu:
            share = side["share_of_peak"]
            cells += [_mega(side["gpu_peak_bytes"]), f"{side['useful_tflops']:.1f}"]
            cells += ["" if share is None else f"{share:.1%}"]
        table.add_row(*cells)
    return table


def _cohort_table(results: Mapping[str, Any]) -> rich.table.Table:
    title = "userdp bench: our round by cohort"
    table = rich.table.Table(
        "users", "ms a user", "range", "ms a user more", "peak MB", title=title
    )
    for name, row in results["cohorts"].items():
        least, middle, most = (
            1e3 * row["seconds_a_user"][key] for key in ("least", "median", "most")
        )
        more = row["seconds_a_user_more"]
        cells = [name, f"{middle:.3f}", f"{least:.3f}-{most:.3f}"]
        table.add_row(*cells, "" if more is None else f"{1e3 * more:.3f}", _mega(row["peak_bytes"]))
    return table


def _notes(results: Mapping[str, Any]) -> list[str]:
    if "cohorts" in results:
        memory = results["spread_of_memory"]
        return [
            f"largest over least: time a user {results['spread_of_time']:.3f}"
            + ("" if memory is None else f", peak memory {memory:.3f}")
        ]
    notes = []
    for name, side in results["sides"].items():
        parts = [f"{key} {value}" for key, value in (side.get("details") or {}).items()]
        if side.get("sum_difference") is not None:
            parts.append(f"clipped sum differs from ours by {side['sum_difference']:.1e}")
        parts += [f"{share:.0%} {operation}" for operation, share in side.get("profile") or ()]
        notes += [f"{name}: {', '.join(parts)}"] if parts else []
    if fused := results.get("round_of_fused_plain"):
        notes.append(f"our round over equally fused plain training: {_ratio(fused)}")
    total = sum(results["operations"].values())
    shares = [f"{part} {share / total:.0%}" for part, share in results["operations"].items()]
    return [*notes, f"{results['tokens']:,} tokens, {total / 1e12:.3g} TFLOP: {', '.join(shares)}"]


def _machine_line(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)


def _ratio(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['median']:.2f} ({spread['least']:.2f}-{spread['most']:.2f})"


def _mega(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f}"
