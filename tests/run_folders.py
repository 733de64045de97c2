"""Run folders written by hand, for what reads them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml


def folder(
    path: Path,
    *,
    strategy: str = "user_wise",
    epsilon: float | None = 8.0,
    target: bool = True,
    summary: dict[str, Any] | None = None,
    tables: dict[str, list[dict[str, Any]]] | None = None,
    **changes: dict[str, Any],
) -> Path:
    """What a run that ended leaves, cut down to what tables need.

    Args:
        epsilon: the claim, and the target too unless ``target`` is off.
        tables: rows of csv files, by name.
        changes: of the configuration, by group.
    """
    config: dict[str, Any] = {
        "data": {
            "format": "jsonl",
            "path": "mail.jsonl",
            "seed": 0,
            "canaries": 0,
            "canary_references": 1024,
        },
        "model": {"kind": "local", "path": "base", "seq_len": 64, "lora": {"r": 4}},
        "strategy": {"name": strategy, "records_per_user": 2},
        "selection": {"rule": "random"},
        "privacy": {"epsilon": epsilon if target else None},
        "cohort": 100,
        "rounds": 30,
        "seed": 0,
    }
    for group, values in changes.items():
        config[group] = {**config[group], **values} if isinstance(values, dict) else values
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    told = {"private": epsilon is not None, "epsilon": epsilon, "delta": 1e-5}
    (path / "privacy_statement.json").write_text(json.dumps(told))
    lines = [{"round": 1, "epsilon": 0.5}]
    lines.append(
        {"round": 30} | {f"summary/{key}": value for key, value in (summary or {}).items()}
    )
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, rows in (tables or {}).items():
        with (path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path
