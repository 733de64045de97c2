"""Writes a run's samples at its end: texts by the base model, and by base and adapter.

They are post-processing of the last release: a function of the adapter, which is public, of public
prompts and of a public seed. So they cost no epsilon. A run never fails for want of them.
"""

from __future__ import annotations

import logging
from typing import Any

from userdp.clients.generation import sample, side_by_side
from userdp.clients.generation.sample import Sample
from userdp.clients.generation.sampling import Sampling
from userdp.sim.common import durable_file, rng
from userdp.sim.common.errors import ConfigurationError, located
from userdp.sim.data.sources import registry as sources
from userdp.sim.run.prepare import Prepared
from userdp.sim.run_folder import samples_file

_LOG = logging.getLogger("userdp")


def write(prepared: Prepared, adapted: Any | None) -> list[Sample]:
    """Write the samples that the configuration asks for; none for a classification.

    Args:
        adapted: base model and saved adapter, of peft; None where they could not be loaded.
    """
    folder, found = prepared.folder, _drawn(prepared, adapted)
    if found:
        durable_file.replace(folder.samples, samples_file.content(found))
    else:
        durable_file.remove(folder.samples)  # of an earlier end of this run
    return found


def _drawn(prepared: Prepared, adapted: Any | None) -> list[Sample]:
    settings = prepared.settings
    asked = settings.samples
    if not asked.count or settings.data.label is not None:
        return []
    if adapted is None:
        _LOG.warning("No samples are written: the saved adapter was not loaded.")
        return []
    sampling = Sampling(
        tokens=asked.tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=int(rng.generator(settings.seed, "samples").integers(2**63)),
    )
    try:
        return side_by_side.samples(
            adapted,
            prepared.inputs.text_tokenizer,
            sample.spread(
                asked.prompts or sources.public_prompts(settings.data.format), asked.count
            ),
            sampling,
            chat=settings.data.chat is not None,
        )
    except ConfigurationError as error:
        reason = str(error)
    except Exception as error:  # a family's own code writes the texts; its text may quote them
        reason = located(error)
    _LOG.warning("No samples are written (samples.count=0 asks for none): %s", reason)
    return []
