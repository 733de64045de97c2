"""The licence of a base model, where its own card at hand tells it; nothing is downloaded."""

from __future__ import annotations

import re
from pathlib import Path

_CARD = "README.md"
_LICENCE = re.compile(r"[\w.+-]{1,40}")  # as the hub spells them: apache-2.0


def of_base(base: str, revision: str | None) -> str | None:
    """The licence that the card in a model's folder, or in the hub's cache, names; else None.

    Args:
        base: folder, or name on the hub.
        revision: commit on the hub; None for a folder.
    """
    from huggingface_hub import ModelCard, try_to_load_from_cache  # slow to import

    try:
        card: object = Path(base) / _CARD
        if revision is not None:
            card = try_to_load_from_cache(base, _CARD, revision=revision)
        if not (isinstance(card, str | Path) and Path(card).is_file()):
            return None
        named = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except Exception:  # of a card of anyone's, which no run may fail for
        return None
    return named if isinstance(named, str) and _LICENCE.fullmatch(named) else None
