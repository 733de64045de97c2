"""All that a strict run writes is a function of what it releases, whoever's records it trains on.

The releases are pinned: every mechanism answers as if the cohort's sum were a fixed one, while the
nodes train on the true records and the coins come from the operating system. Two populations whose
files differ in one user's records then give the same bytes in the run folder, on the console and in
the offline files of the trackers, but for clocks and random names, and an observer of the cache
without its key sees the same number of names.

Out of scope: sizes and times of files in the cache, which is as private as the records; the time
that a run takes; and the files named in `SECRETS`, which are never published.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import small_world, wandb_file
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.sim import cli
from userdp.sim.common import file_hash, rng
from userdp.sim.protocol.cohort_sum import CohortSum

# Secrets that lie in a run folder beside the checkpoint, mode 0600, and are never published.
SECRETS = ("noise",)
RUN_ID = "wandb/run-id.txt"  # a random name, like those in `CLOCKS`
REMOVED = small_world.MARKER_USER
# A test that can pass: little noise, most of it for the update, and a cohort of everybody.
LOUD = [
    *("strategy.min_weight=4", "strategy.test_share=0.9", "cohort=40"),
    "privacy.epsilon=null",
    "privacy.noise_multiplier=0.5",
]
CASES = {
    "user_wise": [],
    "adaptive": ["strategy.clip_quantile=0.5", "strategy.clip_bit_noise=9"],
    "capped": ["strategy.cohort_max=8"],
    "group_privacy": ["strategy=group_privacy", "strategy.records_per_user=2"],
    "concentrated": ["strategy=concentrated", *LOUD],
    "matrix_factorization": ["strategy=matrix_factorization", "strategy.bands=2"],
}
FAST = [("user_wise", "jsonl"), ("concentrated", "jsonl")]
LONG = [pytest.mark.slow, pytest.mark.trust]
SLOW = [
    (case, sink)
    for case in CASES
    for sink in ("jsonl", "wandb", "tensorboard")
    if (case, sink) not in FAST
]


def pinned(release):
    """The mechanism's release of a fixed cohort with fixed noise, whatever the nodes sent."""

    def of_fixed_cohort(self, cohort, stream, number):
        source = np.random.default_rng(number)
        rows = source.normal(size=(12, len(cohort.total))) / 100
        bits = None if cohort.unclipped_bits is None else 1.5
        kept = None if cohort.rows is None else rows
        fixed = CohortSum(rows.sum(0), cohort.figures, bits, kept)
        return release(self, fixed, rng.Replayed(source), number)

    return of_fixed_cohort


def population(folder: Path, removed: str | None) -> None:
    rows = [row for row in small_world.rows() if row["user_id"] != removed]
    folder.mkdir()
    (folder / "mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def everything(folder: Path) -> dict[str, object]:
    """What lies in a run folder, by name; binary formats as the values that they hold."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in SECRETS):
        name = scrubbed(path.relative_to(folder).as_posix())
        if path.suffix == ".wandb":
            found[name] = "\n".join(wandb_values(folder))
        elif path.name.startswith("events.out.tfevents"):
            found["events"] = events(path)
        elif name == RUN_ID:
            assert re.fullmatch(r"[a-z0-9]{8}", path.read_text())
            found[name] = "NAME"
        elif path.suffix == ".pt":
            found[name] = scrubbed(repr(torch.load(path, weights_only=True)))
        elif path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        else:
            found[name] = scrubbed(path.read_text())
    return found


def wandb_values(folder: Path) -> list[str]:
    """The values in the library's file: rows in their order, and all else that any record holds.

    The library writes keys in random order, and an interim summary whenever some time has passed.
    """
    kinds = ("history", "summary")
    rows = [
        {key: value for key, value in row.items() if key not in ("_timestamp", "_runtime")}
        for row in wandb_file.history(folder)
    ]
    last = wandb_file.summary(folder)
    others = {
        line
        for record in wandb_file.records(folder)
        if record.WhichOneof("record_type") not in kinds
        for line in scrubbed(str(record)).splitlines()
    }
    shown = [json.dumps(row, sort_keys=True) for row in rows]
    shown += [f"{key}: {last[key]}" for key in sorted(last) if not key.startswith("_")]
    return [*shown, *sorted({line.strip() for line in others} - {"CLOCK"})]


def events(path: Path) -> list[str]:
    """The records of a TensorBoard file, without the time at which each was written."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    records = []
    for event in loader.EventFileLoader(str(path)).Load():
        event.ClearField("wall_time")
        records.append(str(event))
    return records


CLOCKS = [
    (r"offline-run-\d{8}_\d{6}-\w+|run-\w{8}\.wandb", "RUN"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(\+00:00|Z)?", "TIME"),
    (r"(stream_id|run_id|mailbox_slot|display_name|client_id|_id|digest): \"[^\"]*\"", "NAME"),
    (r"(seconds|nanos|runtime|num|[a-z_]*_time\w*): [\d.e+]+", "CLOCK"),
    (r"key: \"_(timestamp|runtime)\"\s+value_json: \"[\d.e+]+\"", "CLOCK"),
    (r"\"(hash|parent|prev\w*|head|ledger_head|state\w*|checkpoint)\": ?\"[0-9a-f]+\"", "HASH"),
    (r"'ledger_head': '[0-9a-f]+'", "HASH"),
    (r"\b[0-9a-f]{64}\b", "HASH"),  # of entries, whose times differ
    (r"(about )?\d+(\.\d+)? (s|seconds?|min|minutes?|hours?)\b", "DURATION"),
]


def scrubbed(text: str) -> str:
    """The text without clocks, random names and hashes of clocks."""
    for pattern, name in CLOCKS:
        text = re.sub(pattern, name, text)
    return text


def difference(name: str, first: object, second: object) -> list[str]:
    """The lines in which two files differ."""
    if first == second:
        return []
    texts = [str(one).splitlines() for one in (first, second)]
    return [name, *(line for line in difflib.unified_diff(*texts, n=0, lineterm=""))]


def names(cache: Path) -> list[int]:
    """How many entries each folder of the cache has: their names are keyed hashes."""
    return sorted(len(list(place.iterdir())) for place in cache.iterdir() if place.is_dir())


def written(tmp_path, monkeypatch, capsys, removed, options):
    """All that a run on the population without ``removed`` writes, and the names in its cache."""
    folder = tmp_path / f"without-{removed}"
    population(folder, removed)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("USERDP_CACHE", str(folder / "cache"))
    monkeypatch.setattr(file_hash, "SETTLED_NS", 0)  # else a hash is kept by the clock
    mine = ["data.path=mail.jsonl", "privacy.users=40", "cohort=12", "output=run", *options]
    assert cli.main(["run", *small_world.overrides(*mine)]) == 0
    wandb_file.wait_for_files()
    told = capsys.readouterr()
    files = everything(folder / "run")
    files |= {"console": scrubbed(told.out), "errors": scrubbed(told.err)}
    return files, names(folder / "cache"), sorted(os.listdir(folder / "cache" / "corpora"))


@pytest.mark.parametrize(
    ("case", "sink"),
    [*FAST, *(pytest.param(*pair, marks=LONG) for pair in SLOW)],
)
def test_a_strict_run_writes_a_function_of_its_releases(tmp_path, monkeypatch, capsys, case, sink):
    if sink == "tensorboard":
        pytest.importorskip("tensorboard")
    wandb_file.isolate(monkeypatch, tmp_path)
    for kind in (Mechanism, Concentrated, MatrixFactorization):
        if "release" in vars(kind):
            monkeypatch.setattr(kind, "release", pinned(kind.release))
    options = [*CASES[case], f"track={sink}"]
    runs = [written(tmp_path, monkeypatch, capsys, who, options) for who in (None, REMOVED)]
    (first, cached, corpora), (second, cached_too, corpora_too) = runs
    assert first.keys() == second.keys()
    assert [line for name in first for line in difference(name, first[name], second[name])] == []
    assert cached == cached_too
    assert not set(corpora) & set(corpora_too)
