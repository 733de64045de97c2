"""Random configurations of a tiny world: each ends well or in one line, and no claim is too small.

A seed gives every configuration. Most are only prepared: composed, checked, planned and calibrated,
with records and model loaded. A share is run to its end, and there the stated epsilon is held
against the ledger's composition, which is accounted anew, and ``userdp verify`` has to agree.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import math
import random
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from helpers import small_world
from userdp.server import accounting
from userdp.server.ledger import ledger
from userdp.server.mechanisms.registry import MECHANISMS
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.config.strategy import Strategy
from userdp.sim.data.selection import RULES
from userdp.sim.run import prepare
from userdp.sim.sweep.shared_inputs import SharedInputs

_COMMON = {item.name for item in fields(Strategy)}
RUN_EVERY = 10  # one configuration in so many is run

# setting -> (values that may be valid, values that never are)
SETTINGS: dict[str, tuple[list[str], list[str]]] = {
    "strategy.records_per_user": (["1", "2", "5", "all"], ["0", "-1", "many", "1.5"]),
    "strategy.clip_norm": (["0.1", "1", "30", "1e-6"], ["0", "-1", "inf", "nan", "null", "x"]),
    "strategy.clip_quantile": (["0.5", "0.9"], ["0", "1", "nan", "-0.5"]),
    "strategy.clip_bit_noise": (["5", "50"], ["0", "-1", "inf"]),
    "strategy.cohort_max": (["8", "12", "1000"], ["0", "-3", "2.5"]),
    "strategy.bands": (["1", "2", "3"], ["0", "-1", "100"]),
    "strategy.objective": (["mean", "last", "independent"], ["best"]),
    "strategy.tau": (["0.02", "0.5"], ["0", "nan", "-1"]),
    "strategy.min_weight": (["4", "5"], ["0", "inf", "3"]),
    "strategy.test_share": (["0.05", "0.9"], ["0", "1", "nan"]),
    "strategy.test_statistic": (["weight", "pairs"], ["median"]),
    "strategy.on_failure": (["fallback", "halt"], ["retry"]),
    "strategy.local_steps": (["1", "2"], ["0", "-1", "x"]),
    "strategy.local_lr": (["1", "0.1"], ["0", "inf", "nan"]),
    "strategy.resample": (["true", "false"], ["maybe"]),
    "selection": ([*RULES], ["best"]),
    "optimizer": (["adam", "sgd", "momentum", "adam_bc", "scale_then_privatize"], ["lion"]),
    "optimizer.lr": (["0.1", "1e-4"], ["inf", "nan", "x"]),
    "schedule": (["constant", "linear", "cosine"], ["steps"]),
    "schedule.warmup": (["0", "1", "5"], ["-1", "0.5"]),
    "schedule.average": (["0", "0.9"], ["1", "-0.5", "nan"]),
    "privacy.users": (["23", "100", "100000"], ["1", "0", "-5", "2.5"]),
    "privacy.epsilon": (["0.5", "2", "8"], ["0", "-1", "inf", "nan", "null"]),
    "privacy.delta": (["1e-6", "1e-3"], ["0", "1", "2", "nan", "1e-300"]),
    "privacy.accountant": (["pld", "prv", "rdp", "edgeworth"], ["gdp", "os.path.join"]),
    "privacy.group_bound": (["mixture", "lemma"], ["none"]),
    "privacy.edgeworth_order": (["1", "2", "3"], ["0", "4"]),
    "privacy.reproducible": (["true", "false"], ["perhaps"]),
    "rounds": (["1", "2", "3"], ["0", "-1", "1.5", "x"]),
    "cohort": (["1", "6", "12", "20", "0.5"], ["0", "-1", "nan", "inf", "1e9"]),
    "eval_every": (["1", "5"], ["0"]),
    "runtime.nodes": (["1", "3", "30"], ["0", "-1"]),
    "runtime.drop_failed_nodes": (["true", "false"], ["some"]),
    "runtime.timeout": (["60", "null"], ["0", "-1", "inf"]),
    "track": (["jsonl"], ["paper"]),
    "track.simulation_only": (["true", "false"], ["some"]),
    "data.holdout": (["0.1", "0.3", "0.6"], ["0", "1", "-1", "nan"]),
    "data.split": (["user", "record"], ["column", "half"]),
    "data.user": (["user_id", "null"], ["sender"]),
    "data.text": (["text"], ["body", "null"]),
    "data.classes": (["[yes,no]"], ["[yes]", "[yes,yes]", "0", "null"]),
    "data.seed": (["0", "3"], ["x"]),
    "data.strict": (["true", "false"], ["2"]),
    "model.seq_len": (["4", "16", "32"], ["0", "1", "-4", "100000"]),
    "model.lora.r": (["1", "2", "8"], ["0", "-1"]),
    "model.lora.alpha": (["1", "16"], ["nan", "x"]),
    "model.lora.targets": (["all-linear"], ["nowhere"]),
    "model.lora.freeze_a": (["true", "false"], ["half"]),
    "model.dtype": (["float32", "bfloat16"], ["int8"]),
    "engine.max_tokens": (["64", "4096"], ["0", "-1", "x"]),
    "engine.max_lanes": (["1", "8"], ["0", "x"]),
    "engine.checkpointing": (["true", "false"], ["2"]),
    "seed": (["0", "7"], ["x", "-1"]),
}
WRONG, MOST = 0.05, 6  # share of values that are never valid; settings changed at most
FOREIGN = 0.03  # share of settings of another strategy that are tried nevertheless
TARGETS = [["privacy.epsilon=8"], ["privacy.epsilon=null", "privacy.noise_multiplier=1"], []]
# A test that can pass: little noise, most of it for the update.
TESTED = ["privacy.epsilon=null", "privacy.noise_multiplier=0.5", "strategy.test_share=0.9"]
DATA = [
    ["data=jsonl", "data.path={}/all.jsonl"],
    ["data=csv", "data.path={}/all.csv"],
    ["data=jsonl", "data.path={}/all.jsonl", "data.prompt=prompt"],
    ["data=csv", "data.path={}/all.csv", "data.label=kind", "data.classes=[yes,no]"],
    ["data=jsonl", "data.path={}/all.jsonl", "data.split=column", "data.split_column=side"],
]


@functools.cache
def world() -> Path:
    """A folder with one set of records in two formats, with columns for every kind of data."""
    folder = small_world.folder() / "fuzz"
    folder.mkdir(exist_ok=True)
    rows = [
        {
            **row,
            "prompt": "the old",
            "kind": ("yes", "no")[i % 2],
            "side": ("train", "test")[i % 5 == 0],
        }
        for i, row in enumerate(small_world.rows())
    ]
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "all.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def overrides(seed: int, number: int) -> list[str]:
    """Configuration ``number`` of the sequence that a seed gives."""
    chance = random.Random(f"{seed} {number}")
    strategy = chance.choice([*MECHANISMS])
    mechanism = MECHANISMS.find(strategy)
    target = chance.choice(TARGETS) if mechanism.private else ["privacy.epsilon=null"]
    if mechanism.keeps_rows:
        target = [*TESTED, "strategy.min_weight=4", "cohort=60"]
    kind = [item.format(world()) for item in chance.choice(DATA)]
    changed = []
    for name in chance.sample([*SETTINGS], chance.randint(0, MOST)):
        valid, wrong = SETTINGS[name]
        group, _, option = name.partition(".")
        known = option in mechanism.options() or option in _COMMON
        if group != "strategy" or known or chance.random() < FOREIGN:
            values = wrong if chance.random() < WRONG or not valid else valid
            changed.append(f"{name}={chance.choice(values)}")
    public = ["cohort=20", "privacy.users=150", f"strategy={strategy}"]
    return small_world.overrides(*kind, *public, *target, *changed)


@dataclass(frozen=True)
class Outcome:
    """What became of a configuration: "success", "refused", "stopped" or "fault"."""

    kind: str
    told: str


def prepared(configuration: list[str], inputs: SharedInputs) -> Outcome:
    """The end of all checks and of the calibration; no folder is made."""
    try:
        settings, _ = hydra_compose.settings(configuration)
        plan = prepare.prepare(settings, inputs.load).plan
    except ConfigurationError as error:
        return Outcome("refused", str(error)) if str(error).strip() else Outcome("fault", "silent")
    except BaseException:
        return Outcome("fault", traceback.format_exc())
    claimed = plan.epsilon.upper if plan.mechanism.private else math.inf
    if plan.target is not None and not claimed <= plan.target:
        return Outcome("fault", f"planned epsilon {claimed} beyond the target {plan.target}")
    return Outcome("success", f"epsilon {claimed}")


def ran(configuration: list[str], folder: Path) -> Outcome:
    """The end of a whole run by the command, with its claim checked."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(["run", *configuration, f"output={folder}"])
    except BaseException:
        return Outcome("fault", traceback.format_exc())
    lines = [line for line in err.getvalue().splitlines() if line.startswith("userdp: ")]
    last = lines[-1] if lines else ""
    if code == 0:
        return claim_checked(folder)
    if code == 2 and last.startswith("userdp: error: ") and not (folder / "ledger.jsonl").exists():
        return Outcome("refused", last)
    if code == 1 and last.startswith("userdp: stopped: "):
        return Outcome("stopped", last)
    return Outcome("fault", f"exit code {code}: {err.getvalue()[-2000:]}")


def claim_checked(folder: Path) -> Outcome:
    """A fault where the statement says less than the ledger's composition costs."""
    stated = json.loads((folder / "privacy_statement.json").read_text())
    account = ledger.verify(folder / "ledger.jsonl")
    header = account.header
    if header["event"]["noise_multiplier"] == 0:
        stated_is_right = stated["epsilon"] is None or not math.isfinite(float(stated["epsilon"]))
        return Outcome("success", "not private") if stated_is_right else Outcome("fault", "claim")
    composition = [
        (accounting.RoundEvent.from_dict(event), math.ceil(rounds / header["rounds_per_event"]))
        for event, rounds in account.spent
    ]
    options = {"group_bound": header["group_bound"] or "mixture"}
    options["accountant"] = header["accountant"]
    true = accounting.epsilon(composition, header["delta"], **options)
    if not stated["epsilon"] >= true.upper * (1 - 1e-12) or account.rounds != stated["rounds"]:
        return Outcome("fault", f"stated {stated['epsilon']}, accounted {true.upper}")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if cli.main(["verify", str(folder)]) != 0:
            return Outcome("fault", "verify refuses the run")
    return Outcome("success", f"epsilon {stated['epsilon']}")


def tried(seed: int, numbers: Iterable[int], folder: Path) -> list[tuple[list[str], Outcome]]:
    """The configurations of these numbers and their outcomes.

    Args:
        numbers: of the sequence that the seed gives.
        folder: for the runs; each gets a folder of its own.
    """
    inputs, outcomes = SharedInputs(), []
    for number in numbers:
        configuration = overrides(seed, number)
        outcome = prepared(configuration, inputs)
        if outcome.kind == "success" and number % RUN_EVERY == 0:
            outcome = ran(configuration, folder / str(number))
        outcomes.append((configuration, outcome))
    return outcomes


def counts(outcomes: list[tuple[list[str], Outcome]]) -> Counter[str]:
    """Number of configurations by kind of outcome."""
    return Counter(outcome.kind for _, outcome in outcomes)
