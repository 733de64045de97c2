"""Ends a run: final scores, the privacy statement, the adapter with its model card."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from userdp.clients.checkpoints import beside_adapter
from userdp.clients.evaluation import heldout, text_bytes
from userdp.clients.evaluation.heldout import Evaluation
from userdp.clients.generation import answers
from userdp.clients.generation.sample import Sample
from userdp.clients.models import export
from userdp.clients.quantization.quantization import Quantized
from userdp.server.ledger.ledger import Ledger
from userdp.server.statement import claim, model_card, statement
from userdp.server.statement.card_metadata import About
from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError, located
from userdp.sim.console import run_summary
from userdp.sim.data.canaries import Canaries
from userdp.sim.inputs import licence
from userdp.sim.run import input_digests, samples
from userdp.sim.run.health import saved_adapter
from userdp.sim.run.prepare import Prepared
from userdp.sim.run.simulation_only import canary_exposure, measure
from userdp.sim.run.simulation_only.measure import Measured
from userdp.sim.run_folder import published_files
from userdp.sim.tracking.tracker import Tracker

_LOG = logging.getLogger("userdp")
_OURS = About(license="apache-2.0", language=("en",))  # of generated texts and our own base model


@dataclass(frozen=True, kw_only=True)
class Result:
    """The results of a run, beside the files in its folder."""

    folder: Path
    before: Evaluation  # of the base model
    after: Evaluation  # of the adapter
    statement: Mapping[str, Any]
    samples: Sequence[Sample] = ()  # texts of base and adapter after public prompts
    training_seconds: float = 0.0  # rounds and held-out scores; private, so never stored


def score(prepared: Prepared, adapter: np.ndarray) -> Evaluation:
    """The scores of an adapter, (D,) of any float type, on the held-out records."""
    model = prepared.inputs.model
    return heldout.evaluate(
        model,
        torch.from_numpy(adapter.astype(np.float32)).to(model.device),
        prepared.inputs.corpus.heldout,
        seq_len=prepared.settings.model.seq_len,
        max_tokens=prepared.engine.max_tokens,
        text_bytes=_text_bytes(prepared),
    )


def _text_bytes(prepared: Prepared) -> int | None:
    """Bytes of the predicted text of the held-out records; None where classes are predicted."""
    inputs, length = prepared.inputs, prepared.settings.model.seq_len
    if inputs.model.classes is not None:
        return None
    heldout_users = inputs.corpus.heldout

    def count() -> int:
        records = (
            record for user in range(len(heldout_users)) for record in heldout_users.records(user)
        )
        return text_bytes.predicted(inputs.text_tokenizer, (record[:length] for record in records))

    counted: int = inputs.cached(("text bytes", length), count)
    return counted


def finish(
    prepared: Prepared,
    ledger: Ledger,
    tracker: Tracker,
    before: Evaluation,
    after: Evaluation,
    released: Mapping[str, float],
) -> Result:
    """Write model card, adapter, statement and summary, and print the outcome.

    The summary is the last line of the metrics, and makes the run a complete one
    (`RunFolder.complete`). Killed before it, the run is resumed, and all of this is written again.

    Args:
        before: score of the base model.
        after: score of the adapter.
        released: further released figures of the whole run, by metric.
    """
    folder = prepared.folder
    simulated = _simulated(prepared, {0: before, ledger.rounds_intended: after})
    facts, written, (before, after) = _publish(prepared, ledger, before, after)
    tracker.texts("samples", ("prompt", "base", "adapter"), [one.texts() for one in written])
    for path, name, kind in (
        (folder.adapter, "adapter", "model"),
        (folder.model_card, "model_card", "card"),
        (folder.statement, "privacy_statement", "statement"),
        (folder.ledger, "ledger", "ledger"),
        *([(folder.samples, "samples", "samples")] if written else []),
        *((file, file.stem, "simulation_only") for file in simulated.files),
    ):
        tracker.artifact(path, name, kind)
    tracker.summary(
        {
            **before.metrics("_before"),
            **after.metrics(),
            **({} if after.majority is None else {"heldout_majority": after.majority}),
            **({k: facts[k] for k in ("epsilon", "delta")} if facts["private"] else {}),
            **released,
        },
        simulation_only=simulated.figures,
    )
    if ledger.rounds_intended >= prepared.plan.rounds:  # else the run can be resumed
        input_digests.delete(folder)
    rows = {**_score_rows(before, after), **simulated.shown}
    run_summary.print_end(folder, rows, facts, written)
    return Result(folder=folder.path, before=before, after=after, statement=facts, samples=written)


def _simulated(prepared: Prepared, scores: Mapping[int, Evaluation]) -> Measured:
    """Measurements on private data; none unless ``track.simulation_only=true``.

    Args:
        scores: held out, by number of rounds.
    """
    if not prepared.settings.track.simulation_only:
        return Measured()
    inputs, last = prepared.inputs, prepared.optimizer.averaged

    def exposure(canaries: Canaries, number: int) -> np.ndarray:
        """(canaries,) int64 ranks before training (``number`` is 0) or after it."""
        adapter = last if number else inputs.model.initial.numpy()
        max_tokens = prepared.engine.max_tokens
        return canary_exposure.ranks(canaries, inputs.model, adapter, max_tokens=max_tokens)

    return measure.measure(
        prepared.folder, inputs.corpus.heldout, scores, inputs.canaries, exposure
    )


def _score_rows(before: Evaluation, after: Evaluation) -> dict[str, str]:
    """The scores as rows of title and value, for the terminal."""
    figures = [
        f"{value:.2%}" if name == "accuracy" else f"{value:.2f}"
        for name, value in (before.headline, after.headline)
    ]
    gain = "" if after.better_than(before) else " (training did not help here)"
    rows = {f"held-out {after.headline[0]}": f"{figures[0]} before, {figures[1]} after{gain}"}
    for title, name, form in (
        ("next-token accuracy", "token_accuracy", ".2%"),
        ("bits per byte", "bits_per_byte", ".3f"),
        ("ROUGE-L of answers", "rouge_l", ".3f"),
    ):
        if getattr(before, name) is not None and getattr(after, name) is not None:
            told = (f"{getattr(score, name):{form}}" for score in (before, after))
            rows[title] = "{} before, {} after".format(*told)
    if after.majority is not None:
        rows["commonest class"] = f"{after.majority:.2%} of the held-out records"
    return rows


def _publish(
    prepared: Prepared, ledger: Ledger, before: Evaluation, after: Evaluation
) -> tuple[Mapping[str, Any], list[Sample], tuple[Evaluation, Evaluation]]:
    """Write model card, adapter and samples, and last the statement, which holds their digests.

    The card comes before the adapter, so that no adapter ever stands beside the card of an earlier
    one, whose epsilon was smaller. It is written again with what only the saved adapter is
    scored for.

    Returns:
        The statement, the samples, and the two scores with what was added to them.

    Raises:
        StoppedError: the saved adapter does not score as the trained model; no statement yet.
    """
    inputs, folder, adapter = prepared.inputs, prepared.folder, prepared.optimizer.averaged
    claimed = _statement(prepared, ledger, {})
    durable_file.replace(folder.model_card, _card(prepared, claimed, before, after).encode())
    export.save(
        inputs.model, adapter, folder.adapter, base=inputs.base_name, revision=inputs.revision
    )
    beside_adapter.save_tokenizer(inputs.text_tokenizer, folder.adapter)
    if inputs.base_is_ours:
        beside_adapter.copy_base(Path(inputs.base), folder.base)
    adapted = saved_adapter.check(
        inputs,
        adapter,
        folder.adapter,
        seq_len=prepared.settings.model.seq_len,
        engine=prepared.engine,
    )
    written = samples.write(prepared, adapted)
    before, after = _with_answers(prepared, adapted, before, after)
    if after.rouge_l is not None:
        durable_file.replace(folder.model_card, _card(prepared, claimed, before, after).encode())
    facts = _statement(prepared, ledger, published_files.digests(folder))
    durable_file.replace(folder.statement, (json.dumps(facts, indent=2) + "\n").encode())
    return facts, written, (before, after)


def _with_answers(
    prepared: Prepared, adapted: Any | None, before: Evaluation, after: Evaluation
) -> tuple[Evaluation, Evaluation]:
    """The scores of base and adapter, with ROUGE-L where it is asked for.

    It is post-processing of the last release, and of public records. A run never fails for want of
    it: a line in the log says why it is missing.

    Args:
        adapted: base model and saved adapter, of peft; None where they could not be loaded.
    """
    if not prepared.settings.rouge.records:
        return before, after
    reason = "the saved adapter was not loaded"
    try:
        if adapted is not None:
            base, adapter = _rouge_l(prepared, adapted)
            return replace(before, rouge_l=base), replace(after, rouge_l=adapter)
    except ConfigurationError as error:
        reason = str(error)
    except Exception as error:  # of a family's own code; its text may quote a record
        reason = located(error)
    _LOG.warning("No ROUGE-L is scored (rouge.records=0 asks for none): %s", reason)
    return before, after


def _rouge_l(prepared: Prepared, adapted: Any) -> tuple[float, float]:
    """Mean F1 of ROUGE-L of the base model's answers to held-out prompts, and of the adapter's."""
    inputs, asked = prepared.inputs, asdict(prepared.settings.rouge)
    length, tokenizer = prepared.settings.model.seq_len, inputs.text_tokenizer
    records = answers.chosen(inputs.corpus.heldout, tokenizer, seq_len=length, **asked)

    def score() -> float:
        return answers.mean_rouge_l(adapted, tokenizer, records)

    with adapted.disable_adapter():
        base: float = inputs.cached(("rouge", length, *asked.values()), score)
    return base, score()


def _statement(prepared: Prepared, ledger: Ledger, files: Mapping[str, str]) -> Mapping[str, Any]:
    """The statement; ``files``: digests of the files beside it."""
    sweep = prepared.settings.sweep
    return statement.build(
        ledger.header,  # of the version that started the run, as `userdp verify` reads it
        ledger.spent(),
        claim.from_ledger(ledger.header, ledger.spent()),
        ledger_hash=ledger.head,
        codes=ledger.codes,
        simulation_only=ledger.simulation_only,
        files=files,
        sweep={"folder": Path(sweep).name} if sweep else None,
    )


def _card(
    prepared: Prepared, facts: Mapping[str, Any], before: Evaluation, after: Evaluation
) -> str:
    """The model card, which is the README of the adapter's folder."""
    inputs, data = prepared.inputs, prepared.settings.data
    name, _ = after.headline
    scores = {
        f"held-out {name} {when}": evaluation.headline[1]
        for when, evaluation in (("before", before), ("after", after))
    }
    if after.majority is not None:
        scores[f"held-out {name} of the commonest class"] = after.majority
    return model_card.text(
        facts,
        base_model=inputs.base_name,
        base_revision=inputs.revision,
        base_here=inputs.base_is_ours,
        scores=scores,
        classes=data.class_names,
        quantization=_quantization(inputs.quantized),
        chat=data.chat is not None,
        about=_about(prepared, after),
    )


def _about(prepared: Prepared, after: Evaluation) -> About:
    """The metadata of the card: what the configuration declares, else what is known."""
    inputs, data, declared = prepared.inputs, prepared.settings.data, prepared.settings.card
    datasets, all_ours = declared.datasets, inputs.base_is_ours and data.generated
    if not datasets and data.hub_name is not None:
        datasets = (data.hub_name,)
    known = _OURS if all_ours else About(license=licence.of_base(inputs.base, inputs.revision))
    return About(
        license=declared.license or known.license,
        language=declared.language or known.language,
        datasets=datasets,
        data=datasets[0] if datasets else data.described_format,
        results={name.removeprefix("heldout_"): v for name, v in after.metrics().items()},
    )


def _quantization(quantized: Quantized | None) -> model_card.Quantization | None:
    """What the card says of a quantised base model."""
    if quantized is None:
        return None
    imports, config = quantized.python()
    return model_card.Quantization(
        kind=quantized.kind, dtype=quantized.dtype, imports=imports, config=config
    )
