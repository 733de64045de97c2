"""What a run leaves behind: scores, the statement of its ledger, the adapter with its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from userdp.clients.evaluation import heldout
from userdp.clients.models import export
from userdp.server.ledger.ledger import Ledger
from userdp.server.statement import statement
from userdp.sim.console import run_summary
from userdp.sim.run import ledger_header
from userdp.sim.run.prepare import Prepared
from userdp.sim.run.simulation_only import measure
from userdp.sim.tracking import tracker as track


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run leaves behind."""

    folder: Path
    before: heldout.Evaluation
    after: heldout.Evaluation
    statement: Mapping[str, Any]
    training_seconds: float = 0.0  # rounds and held-out scores; depends on records: never stored


def score(ready: Prepared, adapter: np.ndarray) -> heldout.Evaluation:
    """An adapter (D,) on the held-out records."""
    model = ready.world.model
    return heldout.evaluate(
        model,
        torch.from_numpy(adapter.astype(np.float32)).to(model.device),
        ready.world.corpus.heldout,
        seq_len=ready.settings.model.seq_len,
        max_tokens=ready.engine.max_tokens,
    )


def finish(
    ready: Prepared,
    ledger: Ledger,
    tracker: track.Tracker,
    before: heldout.Evaluation,
    after: heldout.Evaluation,
    released: Mapping[str, float],
) -> Result:
    """Statement from the ledger, adapter with its card, summary with further released figures."""
    seen = measure.measure(ready, {0: before, ledger.rounds_intended: after})
    folder, told = ready.settings.folder, _statement(ready, ledger)
    path = folder / "privacy_statement.json"
    path.write_text(json.dumps(told, indent=2) + "\n")
    _save_adapter(ready, told, before, after)
    claim = {"epsilon": told["epsilon"], "delta": told["delta"]} if told["private"] else {}
    tracker.summary(
        {
            **before.metrics("_before"),
            **after.metrics(),
            **({} if after.majority is None else {"heldout_majority": after.majority}),
            **claim,
            **released,
        },
        simulation_only=seen.figures,
    )
    for kept, name, kind in (
        (folder / "adapter", "adapter", "model"),
        (folder / "adapter" / "README.md", "model_card", "card"),
        (path, "privacy_statement", "statement"),
        (folder / "ledger.jsonl", "ledger", "ledger"),
    ):
        tracker.artifact(kept, name, kind)
    for file in seen.files:
        tracker.artifact(file, file.stem, "simulation_only")
    run_summary.print_end(folder, {**_shown(before, after), **seen.shown}, told)
    return Result(folder=folder, before=before, after=after, statement=told)


def _shown(before: heldout.Evaluation, after: heldout.Evaluation) -> dict[str, str]:
    """The scores as a person reads them."""
    figures = [
        f"{value:.2%}" if name == "accuracy" else f"{value:.2f}"
        for name, value in (before.headline, after.headline)
    ]
    gain = "" if after.better_than(before) else " (training did not help here)"
    rows = {f"held-out {after.headline[0]}": f"{figures[0]} before, {figures[1]} after{gain}"}
    if after.majority is not None:
        rows["commonest class"] = f"{after.majority:.2%} of the held-out records"
    return rows


def _statement(ready: Prepared, ledger: Ledger) -> Mapping[str, Any]:
    sweep = ready.settings.sweep
    return statement.build(
        ready.facts,
        ledger.spent(),
        ledger_header.claim(ready.facts, ledger.spent()),
        ledger_hash=ledger.head,
        codes=ledger.codes,
        simulation_only=ready.settings.track.simulation_only,
        sweep={"folder": sweep} if sweep else None,
    )


def _save_adapter(
    ready: Prepared,
    told: Mapping[str, Any],
    before: heldout.Evaluation,
    after: heldout.Evaluation,
) -> None:
    here, folder = ready.world, ready.settings.folder / "adapter"
    export.save(here.model, ready.optimizer.averaged, folder, base=here.base)
    name, _ = after.headline
    scores = {
        f"held-out {name} {when}": score.headline[1]
        for when, score in (("before", before), ("after", after))
    }
    if after.majority is not None:
        scores[f"held-out {name} of the commonest class"] = after.majority
    card = statement.model_card(
        told,
        base_model=here.base_name,
        base_revision=here.revision,
        scores=scores,
        classes=ready.settings.data.class_names,
    )
    (folder / "README.md").write_text(card)
