"""The samples of a run: writes them as JSON lines, and reads them from a folder of anyone's."""

from __future__ import annotations

import json
from collections.abc import Sequence

from userdp.clients.generation.sample import Sample
from userdp.sim.run_folder.layout import RunFolder

_MOST_BYTES = 10_000_000  # of a file that is read


def content(samples: Sequence[Sample]) -> bytes:
    """The file's content."""
    lines = [json.dumps(vars(sample), ensure_ascii=False) for sample in samples]
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


def read(folder: RunFolder) -> list[Sample]:
    """The samples of a run; none where the file is absent, or is not what a run writes."""
    path = folder.samples
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        samples = [Sample(**row) for row in rows]
    except (OSError, ValueError, TypeError):
        return []
    texts = [text for sample in samples for text in sample.texts()]
    return samples if all(isinstance(text, str) for text in texts) else []
