"""Keyed digests of a run's inputs, kept privately while it lasts, so that a resume finds the same.

Training records, held-out records, tokenizer and base model decide who is protected and who is
scored. Their digests depend on private records, so they never stand in the ledger or in a tracker:
they lie in a file of mode 0600 beside the checkpoint, under a random key, and are deleted when no
planned round is left. Records are the same only in the same order: a user's place decides their
coins.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping

from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.run_folder.layout import RunFolder

_FORMAT = 1
# Of a model's configuration: where it was loaded from, and by what.
_NO_CONTENT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def write(folder: RunFolder, inputs: RunInputs) -> None:
    """Write the digests of the inputs, durably and readable for their owner alone."""
    key = os.urandom(32)
    content = {"format": _FORMAT, "key": key.hex(), "digests": _keyed(key, _parts(inputs))}
    durable_file.replace(folder.input_digests, json.dumps(content).encode(), mode=0o600)


def check(folder: RunFolder, inputs: RunInputs) -> None:
    """Check that the inputs are those whose digests were written.

    Raises:
        ConfigurationError: they are not (the message names the parts that differ), or the file is
            missing or damaged.
    """
    try:
        content = json.loads(folder.input_digests.read_bytes())
        if content["format"] != _FORMAT:
            raise ValueError(content["format"])
        key, stored = bytes.fromhex(content["key"]), dict(content["digests"])
    except FileNotFoundError:
        raise ConfigurationError(
            f"resume={folder.path}: {folder.input_digests} is missing: whether records and base "
            "model are those the run started with cannot be told; restore it, or start a new run."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"resume={folder.path}: {folder.input_digests} is damaged "
            f"({type(error).__name__}); restore it, or start a new run."
        ) from None
    given = _keyed(key, _parts(inputs))
    changed = [name for name in given if not _equal(given[name], stored.get(name))]
    if changed:
        raise ConfigurationError(
            f"resume={folder.path}: the {', '.join(changed)} are not those the run started with: "
            "the claim would be about other users, or scores of users who trained would be "
            "published; restore what it started with, or start a new run."
        )


def delete(folder: RunFolder) -> None:
    """Delete the digests: a run that has ended needs none."""
    durable_file.remove(folder.input_digests)


def _equal(given: str, stored: object) -> bool:
    return isinstance(stored, str) and hmac.compare_digest(given.encode(), stored.encode())


def _parts(inputs: RunInputs) -> Mapping[str, str]:
    """Digest of each part, by what a message calls it."""
    corpus, model = inputs.corpus, inputs.model
    configuration = {
        name: value
        for name, value in json.loads(model.config.to_json_string()).items()
        if name not in _NO_CONTENT
    }
    return {
        "training records": inputs.cached(("digest", "train"), corpus.train.content_digest),
        "held-out records": inputs.cached(("digest", "heldout"), corpus.heldout.content_digest),
        "tokenizer": inputs.tokenizer,
        "base weights": inputs.cached(("digest", "weights"), model.weights_digest),
        "configuration of the base model": json.dumps(configuration, sort_keys=True),
    }


def _keyed(key: bytes, parts: Mapping[str, str]) -> dict[str, str]:
    return {
        name: hashlib.blake2b(f"{name} {digest}".encode(), key=key).hexdigest()
        for name, digest in parts.items()
    }
