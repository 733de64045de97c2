"""Writes a synthetic data set: texts of an adapter as JSON lines, and the card with their claim.

The card is written first: no data set ever stands without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from userdp.clients.generation.sampling import ROWS, Sampling
from userdp.server.statement import data_set_card
from userdp.sim.common import durable_file
from userdp.sim.saved_run.ended_run import EndedRun


def write(
    path: Path,
    run: EndedRun,
    prompts: Sequence[str],
    texts: Sequence[str],
    sampling: Sampling,
    *,
    chat: bool,
) -> Path:
    """Write the records ``{"prompt": ..., "text": ...}`` and their card; returns the card's path.

    Args:
        path: of the records; the card is beside it, ``NAME.card.md``.
        prompts: one for each text.
        texts: by the adapter alone, without their prompts.
        chat: whether prompts were messages of a chat template.
    """
    rows = [
        json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    content = "".join(f"{row}\n" for row in rows).encode(errors="backslashreplace")
    card = path.with_name(f"{path.stem}.card.md")
    made = data_set_card.Made(
        texts=len(texts),
        content=content,
        prompts=list(dict.fromkeys(prompts)),
        chat=chat,
        sampling={**vars(sampling), "rows of a batch": ROWS},
        base_model=run.base_name,
        base_revision=run.header.get("base_revision"),
    )
    durable_file.replace(card, data_set_card.text(run.statement, made).encode())
    durable_file.replace(path, content)
    return card
