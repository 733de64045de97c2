"""`userdp bench case=gpu`: checks the engine on a card, then measures it, within a few minutes.

    userdp bench case=gpu lengths=mail.jsonl user=sender text=body --json > gpu.json
    userdp bench case=gpu device=cpu        # the same steps at tiny sizes, to try the command

What there is no time or no memory for is named and left out. Nothing is measured where a check
fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import rich.box
import rich.console
import rich.table
import torch

from userdp.analysis.benchmark import cases, gpu_checks
from userdp.analysis.benchmark.cases import Options
from userdp.analysis.benchmark.processes import LeftOutError, SideError
from userdp.clients.training import memory
from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import command_options
from userdp.sim.config.field_types import Closed, Column, Name, PathText, Whole

_WIDTH = 120  # characters of a table that is not printed to a terminal
_SIDES = ["round", "fused_plain", "plain"]
_SMALL: dict[str, Any] = {
    "layers": 12,
    "width": 768,
    "heads": 12,
    "vocabulary": 50257,
    "dtype": "bfloat16",
}
_WIDE: dict[str, Any] = {"family": "llama", "layers": 16, "width": 2048, "heads": 32, "mlp": 8192}
_WIDE |= {"vocabulary": 32000, "dtype": "bfloat16"}
_LARGE: dict[str, Any] = {"family": "llama", "layers": 32, "width": 4096, "heads": 32}
_LARGE |= {"kv_heads": 8, "mlp": 14336, "vocabulary": 128256}
_LARGE |= {"dtype": "bfloat16", "quantize": "nf4"}
_TINY: dict[str, Any] = {
    "layers": 1,
    "width": 32,
    "heads": 2,
    "mlp": 64,
    "vocabulary": 128,
    "users": 8,
}
_TINY |= {"dtype": "float32", "batch": 4}
_TINY_WHERE_GIVEN: dict[str, Any] = {"cohorts": [4, 8], "kv_heads": 1, "quantize": "int8"}


@dataclass
class GpuOptions(Closed):
    """The options of the case."""

    device: Name = "cuda"
    seconds: Annotated[Whole, Between(1, 36000)] = 460  # after which no further part begins
    lengths: PathText | None = None  # JSON lines of real records; null: that part is left out
    user: Column = "user_id"
    text: Column = "text"


@dataclass(frozen=True)
class Part:
    """One measurement: its options beside the device, and about what it takes."""

    options: Mapping[str, Any]
    seconds: float
    bytes: float = 0.0  # of the card's memory, for all sides together; 0: any card has it
    without: str = ""  # what is not measured beside it, and why


_PARTS = {
    "GPT-2 small, users of 4 x 256": Part(
        _SMALL | {"users": 256, "records": 4, "length": 256, "profile": True}, 80
    ),
    "GPT-2 small, users of 1 x 32": Part(_SMALL | {"users": 2048, "records": 1, "length": 32}, 60),
    "Llama 1B shape, users of 4 x 256": Part(
        _WIDE | {"users": 64, "records": 4, "length": 256, "profile": True}, 110
    ),
    "GPT-2 small, lengths of real records": Part(
        _SMALL | {"users": 256, "records": 4, "length": 256}, 60
    ),
    "cohorts of 100 to 100,000": Part(
        {"layers": 1, "records": 2, "length": 48, "sides": ["round"], "check": False, "repeats": 1}
        | {"cohorts": [100, 1000, 10_000, 100_000], "dtype": "float32"},
        90,
    ),
    # Each side holds 7e9 weights in 0.56 bytes and 1e9 in two; a pass over 4,096 positions keeps
    # about 6 MB a position, and a lane four times 21e6 numbers.
    "Llama 8B shape, base in 4 bits": Part(
        _LARGE | {"users": 16, "records": 4, "length": 256, "sides": ["round", "fused_plain"]},
        110,
        bytes=50e9,
        without="stock peft is not timed: the search for its batch size takes longer than the part",
    ),
}
_REAL = "GPT-2 small, lengths of real records"
Measure = Callable[[Options], dict[str, Any]]


def run(overrides: Sequence[str], measure: Measure) -> dict[str, Any]:
    """Check, then measure part after part while there is time.

    Args:
        overrides: ``name=value`` of `GpuOptions`.
        measure: times the sides, or cohorts, of some options.

    Returns:
        The figures as JSON values: ``checks``, ``parts`` and ``left_out`` with reasons.

    Raises:
        ConfigurationError: a wrong option, or a check that does not hold on this device.
    """
    options = command_options.parsed(GpuOptions, overrides, "bench case=gpu ")
    start = time.monotonic()
    checks = gpu_checks.run(options.device)
    failed = [name for name, found in checks.items() if not found["holds"]]
    if failed:
        raise ConfigurationError(
            f"bench case=gpu device={options.device}: on this device it does not hold that "
            f"{failed[0]} (measured {checks[failed[0]]['measured']:.3g}); nothing was timed."
        )
    parts: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, part in _PARTS.items():
        left = options.seconds - (time.monotonic() - start)
        try:
            figures = measure(_options(name, part, options, left))
            beside = [part.without] if part.without else []
            parts[name] = figures | {"left_out": [*figures.get("left_out", ()), *beside]}
        except (LeftOutError, SideError) as error:
            left_out[name] = str(error)
    return {"checks": checks, "parts": parts, "left_out": left_out, "shape": asdict(options)}


def _options(name: str, part: Part, given: GpuOptions, left: float) -> Options:
    """The options of a part.

    Raises:
        LeftOutError: there is no time left for it, no memory, no file, or no package.
    """
    tiny = not given.device.startswith("cuda")
    values = {"sides": _SIDES, "repeats": 3, **part.options, "device": given.device}
    if name == _REAL:
        if given.lengths is None:
            raise LeftOutError("give lengths=FILE.jsonl, one record a line")
        values |= {"lengths": given.lengths, "user": given.user, "text": given.text}
    if tiny:
        values |= _TINY | {"length": min(16, values["length"]), "repeats": 1}
        values |= {name: v for name, v in _TINY_WHERE_GIVEN.items() if name in values}
    elif left < part.seconds:
        raise LeftOutError(f"about {part.seconds:.0f} seconds are needed, {left:.0f} are left")
    if "quantize" in values and (
        reason := cases.not_quantized(values["quantize"], values["dtype"])
    ):
        raise LeftOutError(reason)
    if not tiny and part.bytes > (free := _free_bytes(given.device)):
        raise LeftOutError(f"{part.bytes / 1e9:.0f} GB are needed, {free / 1e9:.0f} are free")
    return cases.valid(values)


def _free_bytes(device: str) -> float:
    """Free memory of a card; 0 where torch sees none."""
    return memory.free_bytes(torch.device(device)) if torch.cuda.is_available() else 0.0


def show(results: Mapping[str, Any]) -> None:
    """Print the checks and one table of all parts."""
    console = rich.console.Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = rich.console.Console(highlight=False, soft_wrap=True, width=_WIDTH)
    for name, found in results["checks"].items():
        console.print(f"holds: {name} ({found['measured']:.3g})", markup=False)
    columns = ("", "tokens/s", "of stock peft", "of fused plain", "of peak", "GPU MB")
    table = rich.table.Table(*columns, title="userdp bench case=gpu", box=rich.box.SIMPLE)
    for name, figures in results["parts"].items():
        if "sides" in figures:
            table.add_row(name, *_cells(figures))
    console.print(table)
    for name, figures in results["parts"].items():
        for line in _lines(figures):
            console.print(f"{name}: {line}", markup=False)
    for name, reason in results["left_out"].items():
        console.print(f"left out: {name}: {reason}", markup=False)


def _cells(figures: Mapping[str, Any]) -> list[str]:
    ours = figures["sides"]["round"]
    ratios = [ours["of_plain"], figures["round_of_fused_plain"]]
    share, memory = ours["share_of_peak"], ours["gpu_peak_bytes"]
    return [
        f"{ours['tokens_a_second']:,.0f}",
        *("" if spread is None else f"{spread['median']:.2f}" for spread in ratios),
        "" if share is None else f"{share:.1%}",
        "" if memory is None else f"{memory / 1e6:,.0f}",
    ]


def _lines(figures: Mapping[str, Any]) -> list[str]:
    """What takes the time, and time and memory by cohort."""
    lines = list(figures.get("left_out", ()))
    for name, side in figures.get("sides", {}).items():
        shares = [f"{share:.0%} {kernel}" for kernel, share in side.get("profile") or ()]
        lines += [f"{name}: {', '.join(shares)}"] if shares else []
    for users, row in figures.get("cohorts", {}).items():
        peak = row["gpu_peak_bytes"] or row["peak_bytes"] or 0
        milliseconds = 1e3 * row["seconds_a_user"]["median"]
        lines.append(f"{users} users: {milliseconds:.3f} ms a user, {peak / 1e6:,.0f} MB")
    return lines
