"""Canaries: invented users with a secret each, planted among the training users (off by default).

A canary's record is one public prompt and then a random number of its own, drawn from all numbers
of nine digits (Carlini et al., The Secret Sharer, arXiv 1802.08232).
`userdp.sim.run.simulation_only.canary_exposure` measures whether training memorised it: it ranks
the record's loss among those of reference numbers that no user holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from userdp.sim.common import cache, rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.corpus import Corpus, Encode
from userdp.sim.data.population import Population

PROMPT, DIGITS = "my number is", 9  # public: a secret is one of 10^9 numbers


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """The secrets of the canaries and the references that they are ranked among.

    Args:
        count: number of canaries.
        secrets: users with one record each, the prompt not learned and the number learned: first
            the ``count`` canaries, then the references.
    """

    count: int
    secrets: Population


def drawn(
    *, count: int, references: int, seed: int, encode: Encode, seq_len: int
) -> Canaries | None:
    """Draw the secrets of ``count`` canaries and of ``references``; None for no canaries.

    Secret i of a canary depends on ``seed`` and i alone.

    Args:
        count: canaries, users with a secret each.
        references: random numbers that nobody holds, to rank the canaries' secrets among.
        seed: ``data.seed``.
        seq_len: tokens that a secret and its prompt may take.

    Raises:
        ConfigurationError: a secret does not fit into ``seq_len`` tokens.
    """
    if not count:
        return None
    reference_stream = rng.generator(seed, "canary references")
    numbers = [
        *(_number(rng.generator(seed, "canary", i)) for i in range(count)),
        *(_number(reference_stream) for _ in range(references)),
    ]
    records = encode.prompted([(PROMPT, f" {number}") for number in numbers])
    if (longest := max(map(len, records))) > seq_len:
        raise ConfigurationError(
            f"data.canaries={count}: a secret and its prompt take {longest} tokens; raise "
            f"model.seq_len={seq_len}."
        )
    secrets = Population.of({_id(i): [record] for i, record in enumerate(records)})
    return Canaries(count=count, secrets=secrets)


def planted(corpus: Corpus, canaries: Canaries | None, records: int) -> Corpus:
    """The corpus with the canaries after the training users, who keep their slots and keys.

    Copies the training tokens into memory.

    Args:
        records: of each canary, all the same.
    """
    if canaries is None:
        return corpus
    tokens: dict[str, Sequence[Sequence[int]]] = {
        _id(i): [record.tolist() for record in canaries.secrets.records(i)] * records
        for i in range(canaries.count)
    }
    added = Population.of(tokens)
    name = cache.fingerprint(corpus.name, "canaries", added.content_digest())
    return replace(corpus, train=_joined(corpus.train, added), name=name)


def _joined(first: Population, second: Population) -> Population:
    """The users of the first population, then those of the second."""
    records, entries = len(first.record_offsets) - 1, len(first.user_records)
    ends = [first.record_offsets, second.record_offsets[1:] + len(first.tokens)]
    return Population(
        tokens=np.concatenate([first.tokens, second.tokens]),
        record_offsets=np.concatenate(ends),
        user_records=np.concatenate([first.user_records, second.user_records + records]),
        user_offsets=np.concatenate([first.user_offsets, second.user_offsets[1:] + entries]),
        user_keys=np.concatenate([first.user_keys, second.user_keys]),
    )


def _id(number: int) -> str:
    return f"userdp canary {number}"


def _number(generator: np.random.Generator) -> str:
    return "".join(map(str, generator.integers(10, size=DIGITS)))
