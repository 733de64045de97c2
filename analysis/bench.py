"""`userdp bench`: a private round beside plain peft training on the same tokens, in one run.

Both sides see the same records of the same users. Plain training runs them in batches of ``batch``
records through stock peft and Adam, without privacy. The two take turns. Timings are noisy, so what
is reported is the median over repetitions of the ratio within a repetition.
"""

from __future__ import annotations

import copy
import json
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import rich.console
import rich.table
import torch
import transformers
from flwr.app import ConfigRecord
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clients.adapter import LoraSettings
from clients.app import Host, client_app
from clients.engine import EngineSettings
from clients.model import LanguageModel
from server.ledger import Ledger
from server.optimizer import ServerOptimizer
from server.strategy import Budget, PrivateStrategy
from server.user_wise import UserWise
from sim import rng, track, wire
from sim.errors import ConfigurationError
from sim.grid import InProcessGrid
from sim.population import Population


@dataclass
class Shape:
    """What is timed; every field is an override: ``userdp bench users=256 length=32``."""

    users: int = 256
    records: int = 4  # of each user
    length: int = 64  # tokens of each record
    layers: int = 4
    width: int = 128
    heads: int = 4
    vocabulary: int = 4096
    rank: int = 8
    batch: int = 32  # records in a batch of plain training
    max_tokens: int = 2048  # positions of a stack
    repeats: int = 5
    device: str = "cpu"


def main(arguments: Sequence[str]) -> None:
    """Print a table, or one JSON object with ``--json``.

    Raises:
        ConfigurationError: an unknown override, or a value of the wrong type.
    """
    shape = _shape([argument for argument in arguments if argument != "--json"])
    figures = measure(shape)
    if "--json" in arguments:
        print(json.dumps({"shape": asdict(shape), **figures}, indent=2))
        return
    table = rich.table.Table("", "median seconds", "tokens a second", title="userdp bench")
    tokens = shape.users * shape.records * shape.length
    for name in ("round", "plain"):
        seconds = figures[f"{name}_seconds"]
        table.add_row(name, f"{seconds:.3f}", f"{tokens / seconds:,.0f}")
    console = rich.console.Console(highlight=False)
    console.print(table)
    console.print(f"a private round takes {figures['ratio']:.2f} of plain training (median ratio)")
    console.print(f"{figures['machine']}; peak memory {figures['peak_megabytes']:.0f} MB")


def measure(shape: Shape) -> dict[str, Any]:
    """Time one private round and one pass of plain training, in turn, ``repeats`` times."""
    base = _base(shape)
    tokens = rng.generator(0, "bench").integers(
        0, shape.vocabulary, (shape.users, shape.records, shape.length)
    )
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "round": _private_round(shape, copy.deepcopy(base), tokens, Path(folder)),
            "plain": _plain_pass(shape, base, tokens.reshape(-1, shape.length)),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for repeat in range(shape.repeats + 1):
            for name, side in sides.items():
                seconds = _timed(side, shape.device)
                if repeat:  # the first is a warm-up
                    times[name].append(seconds)
    ratios = [a / b for a, b in zip(times["round"], times["plain"], strict=True)]
    return {
        "round_seconds": statistics.median(times["round"]),
        "plain_seconds": statistics.median(times["plain"]),
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "machine": _machine(shape.device),
    }


def _shape(overrides: list[str]) -> Shape:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Shape), OmegaConf.from_dotlist(overrides))
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"bench: {str(error).splitlines()[0]}") from None
    return Shape(**dict(merged))  # type: ignore[arg-type]


def _base(shape: Shape) -> torch.nn.Module:
    """GPT-2 shape with random weights and no dropout."""
    config = transformers.GPT2Config(
        vocab_size=shape.vocabulary,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_positions=max(128, shape.length),
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.AutoModelForCausalLM.from_config(config).to(shape.device)


def _private_round(
    shape: Shape, base: torch.nn.Module, tokens: np.ndarray, folder: Path
) -> Callable[[], object]:
    """The whole of a round: coins, ledger, message, clipped sum, noise, step, checkpoint."""
    model = LanguageModel(base, LoraSettings(r=shape.rank, alpha=2 * shape.rank))
    population = Population.of({f"user {u}": list(records) for u, records in enumerate(tokens)})
    host = Host(model, population, EngineSettings(max_tokens=shape.max_tokens))
    strategy = _strategy(shape, model, folder)
    grid = InProcessGrid(client_app(host), nodes=1)
    arrays = model.layout.to_arrays(model.initial.numpy())

    def round_() -> object:
        messages = strategy.configure_train(0, arrays, ConfigRecord(), grid)
        return strategy.aggregate_train(0, grid.send_and_receive(messages))

    return round_


def _strategy(shape: Shape, model: LanguageModel, folder: Path) -> PrivateStrategy:
    """User-wise at q = 1, so that every repetition does the same work."""
    mechanism = UserWise(
        users=shape.users,
        cohort=shape.users,
        records_per_user=shape.records,
        clip_norm=1.0,
        noise_multiplier=1.0,
    )
    contract = wire.Contract(
        round=0,
        unit=mechanism.unit,
        clip_norm=mechanism.clip_norm,
        records_per_user=shape.records,
        selection="random",
        redraw=True,
        resample=False,
        max_tokens=shape.length,
        local_steps=1,
        local_lr=1.0,
        seed=0,
    )
    return PrivateStrategy(
        mechanism=mechanism,
        contract=contract,
        layout=model.layout,
        ledger=Ledger.create(folder / "ledger.jsonl", {}),
        budget=Budget(rounds=shape.repeats + 1, epsilon_after=lambda _: 0.0),
        optimizer=ServerOptimizer(model.initial.numpy(), torch.optim.Adam, lambda _: 1.0),
        secrets=rng.Secrets(),
        tracker=track.NullTracker(),
        checkpoints=folder,
    )


def _plain_pass(shape: Shape, base: torch.nn.Module, rows: np.ndarray) -> Callable[[], object]:
    """Stock peft and Adam over the same records, ``batch`` at a time."""
    config = peft.LoraConfig(
        r=shape.rank,
        lora_alpha=2 * shape.rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        model = peft.get_peft_model(base, config).train()  # type: ignore[arg-type]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def pass_() -> object:
        for start in range(0, len(rows), shape.batch):
            ids = torch.from_numpy(rows[start : start + shape.batch]).to(shape.device)
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        return None

    return pass_


def _timed(side: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    side()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
