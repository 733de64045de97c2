"""Writes small run folders with the files of a run, for tests of code that only reads them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from userdp.server import accounting
from userdp.server.statement import claim as claims
from userdp.server.statement import statement

USERS, DELTA, D = 1000, 1e-5, 4096


def write(
    folder: Path,
    *,
    perplexity: float = 100.0,
    strategy: str = "user_wise",
    selection: str = "random",
    epsilon: float | None = 3.0,
    k: int = 4,
    seed: int = 1,
    rounds: int = 4,
    complete: bool = True,
    summary: Mapping[str, Any] | None = None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    **config: Any,
) -> Path:
    """Write the files of a run; returns the folder.

    Args:
        complete: whether it has ended, so that summary and statement are there.
        summary: further figures of the whole run.
        tables: name of a CSV file -> its rows.
        metrics: further rows of the metrics, each with its round.
        config: configuration values by dotted name, with two underscores for a dot.
    """
    folder.mkdir(parents=True)
    private = strategy != "non_private"
    settings: dict[str, Any] = {
        "data": {"format": "synthetic"},
        "selection": {"rule": selection},
        "strategy": {
            "name": strategy,
            "records_per_user": k,
            "clip_norm": 1.0 if private else None,
        },
        "privacy": {"epsilon": epsilon if private else None},
        "optimizer": {"lr": 0.01},
        "rounds": rounds,
        "seed": seed,
        "output": str(folder),
    }
    for key, value in config.items():
        *path, last = key.split("__")
        level: dict[str, Any] = settings
        for name in path:
            level = level.setdefault(name, {})
        level[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    lines = [*_rows(rounds, perplexity, private), *metrics]
    if complete:
        lines.append(_summary(rounds, perplexity, summary or {}))
        stated = privacy_statement(strategy=strategy, epsilon=epsilon, k=k, rounds=rounds)
        (folder / "privacy_statement.json").write_text(json.dumps(stated))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    for name, rows in (tables or {}).items():
        _table(folder / name, rows)
    return folder


def privacy_statement(
    *, strategy: str, epsilon: float | None, k: int, rounds: int
) -> dict[str, Any]:
    """A privacy statement, built by the code that builds a run's."""
    private = strategy != "non_private"
    event = {"sampling_rate": 0.1, "noise_multiplier": 1.0 if private else 0.0, "group_size": 1}
    figure = (epsilon or 1.0) * 0.999 if private else float("inf")
    claim = claims.Claim(
        epsilon=figure,
        epsilon_lower=figure,
        accountant="pld",
        accountant_version="1",
        certified=True,
        epsilon_at_deltas={},
    )
    header = dict.fromkeys(statement.HEADER_FIELDS) | {
        "strategy": strategy,
        "unit": "user",
        "clipped_unit": "user",
        "adjacency": "add-or-remove-one-user",
        "declared_users": USERS,
        "users_counted": False,
        "delta": DELTA,
        "event": event,
        "clip_norm": 1.0 if private else None,
        "denominator": 100.0,
        "sampling_scheme": "poisson",
        "records_per_user": k,
        "resample": False,
        "rescaled": False,
        "records_bounded": True,
        "chunks_cross_records": False,
        "local_steps": 1,
        "selection": "random",
        "seeds_policy": "secret",
        "drop_failed_nodes": False,
        "rounds_per_event": 1,
        "mechanism_details": {},
    }
    return statement.build(header, [(event, rounds)], claim, ledger_hash="0", codes=["0"])


def certified_epsilon(rounds: int) -> float:
    """Certified upper epsilon of the event in every `privacy_statement`."""
    event = accounting.RoundEvent(sampling_rate=0.1, noise_multiplier=1.0)
    return accounting.epsilon([(event, rounds)], DELTA).upper


def _rows(rounds: int, perplexity: float, private: bool) -> Iterator[dict[str, Any]]:
    """Metrics: held-out scores from 400 down; releases with a signal of 0.3 and noise of 0.64."""
    yield {"round": 0, "heldout_perplexity": 400.0, "heldout_loss": 6.0}
    noise = {"noise_std_on_mean": 0.01, "release_norm": (0.09 + 0.01**2 * D) ** 0.5}
    for number in range(1, rounds + 1):
        if private:
            spent = {"epsilon": 0.5 * number, "clip_norm": 1.0}
            yield {"round": number, **noise, "signal_norm": 0.3, **spent}
        else:
            yield {"round": number, "release_norm": 0.3, "noise_std_on_mean": 0.0}
        score = 400.0 + (perplexity - 400.0) * number / rounds
        yield {"round": number, "heldout_perplexity": score, "heldout_loss": 5.0}


def _summary(rounds: int, perplexity: float, more: Mapping[str, Any]) -> dict[str, Any]:
    figures = {
        "heldout_perplexity": perplexity,
        "heldout_loss": 5.0,
        "heldout_perplexity_before": 400.0,
        "heldout_loss_before": 6.0,
        **more,
    }
    return {"round": rounds, **{f"summary/{key}": value for key, value in figures.items()}}


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def sweep(folder: Path) -> Path:
    """Write 2 strategies x 2 epsilons x 3 seeds, another k, a baseline and an unfinished run."""
    for strategy, worse in (("user_wise", 0.0), ("group_privacy", 10.0)):
        for epsilon, base in ((1.0, 120.0), (8.0, 80.0)):
            for seed, offset in ((1, -4.0), (2, 1.0), (3, 9.0)):
                name = f"{strategy}-{epsilon:g}-{seed}"
                settings = {"strategy": strategy, "epsilon": epsilon, "seed": seed}
                write(folder / "main" / name, perplexity=base + worse + offset, **settings)
    write(folder / "k" / "10", perplexity=70.0, epsilon=8.0, k=10, seed=1)
    write(folder / "plain", perplexity=60.0, strategy="non_private")
    write(folder / "stopped", perplexity=50.0, epsilon=8.0, seed=9, complete=False)
    return folder
