"""Pairwise masks, which hide each node's vector and cancel in the sum over all nodes.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017),
section 4.1, among a fixed list of n nodes and without recovery of nodes that drop out. Nodes i and
j share a secret that the server does not know. In round t each of them derives the same mask of
uniform 64-bit integers from it, node i < j adds it and node j subtracts it, modulo 2^64:

    y_i = x_i + sum over j > i of m_ij - sum over j < i of m_ji        sum of all y_i = sum of x_i

Whoever lacks the secrets of at least two nodes sees, of these two, uniform vectors that add up to
the sum of their inputs, and nothing else. A mask hides one input only, so its key depends on the
run, the round and on all that the server told the nodes of the round (`context`): a server that
gives two nodes different adapters or contracts gets masks that do not cancel (the model
inconsistency of Pasquini et al., "Eluding Secure Aggregation in Federated Learning via Model
Inconsistency", CCS 2022).

>>> first, second = np.zeros(3, np.uint64), np.zeros(3, np.uint64)
>>> add_mask(first, bytes(32), subtract=False)
>>> add_mask(second, bytes(32), subtract=True)
>>> bool(first.any()), (first + second).tolist()
(True, [0, 0, 0])
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from userdp.sim.protocol.contract import Contract

_LABEL = b"userdp secure sum 1"
_RUN = re.compile("[0-9a-f]{64}")
_CHUNK = 1 << 14  # entries: key stream and vector stay in the cache of a core
_ZEROS = bytes(8 * _CHUNK)


def is_run(name: str) -> bool:
    """Whether a text can be the name of a run: the SHA-256 of a ledger's header."""
    return _RUN.fullmatch(name) is not None


def context(contract: Contract, given: Sequence[np.ndarray]) -> bytes:
    """Digest of all that a round's nodes are told alike.

    Args:
        contract: of the round.
        given: vectors (D,): the adapter and, where the round has one, the scale.
    """
    digest = hashlib.sha256(json.dumps(asdict(contract), sort_keys=True).encode())
    for vector in given:
        digest.update(f"{vector.dtype.str} {vector.shape} ".encode())
        digest.update(np.ascontiguousarray(vector).tobytes())
    return digest.digest()


def mask_key(
    secret: bytes, *, run: str, number: int, context: bytes, pair: tuple[bytes, bytes]
) -> bytes:
    """32 bytes: the key of one pair's mask in one round, by HKDF-SHA256 (RFC 5869).

    Args:
        secret: that the two nodes share, from their key agreement.
        run: name of the run, as `is_run`.
        number: of the round.
        context: of the round.
        pair: both public keys of 32 bytes, that of the lower place first (RFC 7748, section 7).
    """
    parts = (bytes.fromhex(run), number.to_bytes(8, "big"), context, *pair)  # of fixed lengths
    info = _LABEL + b"".join(parts)
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


def add_mask(vector: np.ndarray, key: bytes, *, subtract: bool) -> None:
    """Add the mask of a key to ``vector`` (entries,) uint64 in place, modulo 2^64, or subtract it.

    The mask is the key stream of ChaCha20 (RFC 8439) as little-endian integers. A key is used once,
    so its nonce is zero; the block counter of 32 bits allows 2^35 entries.
    """
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    buffer = bytearray(8 * _CHUNK)
    operation = np.subtract if subtract else np.add
    for start in range(0, len(vector), _CHUNK):
        part = vector[start : start + _CHUNK]
        stream.update_into(memoryview(_ZEROS)[: 8 * len(part)], buffer)
        operation(part, np.frombuffer(buffer, "<u8", len(part)), out=part)
