"""Masks cancel in the sum of all nodes, come from a standard stream, and differ by every input."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.protocol import secure_sum

MECHANISM = UserWise(users=6, cohort=3, records_per_user=2, clip_norm=0.05, noise_multiplier=1.2)
CONTRACT = tiny.contract(MECHANISM, grid=2.0**-30, secure_sum="ab" * 32)
# RFC 8439, appendix A.1, test vector 1: key, nonce and counter are zero.
FIRST_BLOCK = bytes.fromhex(
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
)


def mask(key, size):
    vector = np.zeros(size, np.uint64)
    secure_sum.add_mask(vector, key, subtract=False)
    return vector


def test_a_mask_is_the_key_stream_of_chacha20():
    assert mask(bytes(32), 8).tobytes() == FIRST_BLOCK


@pytest.mark.parametrize("size", [0, 1, 2**14 - 1, 2**14, 2**14 + 1, 3 * 2**14 + 5])
def test_a_mask_does_not_depend_on_how_it_is_cut(size):
    """No part of the stream is used twice, and a shorter mask begins a longer one."""
    whole = mask(bytes(range(32)), 2**16)
    assert len(np.unique(whole)) == len(whole)
    assert mask(bytes(range(32)), size).tolist() == whole[:size].tolist()


@given(
    st.integers(2, 7),
    st.integers(1, 40),
    st.binary(min_size=32, max_size=32),
    st.randoms(use_true_random=False),
)
def test_masks_cancel_modulo_2_to_the_64(nodes, size, secret, chance):
    inputs = [[chance.randrange(2**64) for _ in range(size)] for _ in range(nodes)]
    vectors = [np.array(values, np.uint64) for values in inputs]
    for i in range(nodes):
        for j in range(nodes):
            if i != j:
                key = hashlib.sha256(secret + bytes(sorted((i, j)))).digest()
                secure_sum.add_mask(vectors[i], key, subtract=j < i)
    total = [sum(int(v[k]) for v in vectors) % 2**64 for k in range(size)]
    assert total == [sum(values[k] for values in inputs) % 2**64 for k in range(size)]


KEY = {
    "run": "ab" * 32,
    "number": 7,
    "context": bytes(range(32)),
    "pair": (b"p" * 32, b"q" * 32),
}


def test_a_mask_key_is_hkdf_of_everything_it_is_bound_to():
    """RFC 5869 by hand: extract under a salt of zeros, expand one block."""
    info = b"userdp secure sum 1" + b"\xab" * 32 + (7).to_bytes(8, "big") + bytes(range(32))
    info += b"p" * 32 + b"q" * 32
    extracted = hmac.digest(bytes(32), b"s" * 32, "sha256")
    assert secure_sum.mask_key(b"s" * 32, **KEY) == hmac.digest(extracted, info + b"\x01", "sha256")


@pytest.mark.parametrize(
    "change",
    [
        {"run": "ac" * 32},
        {"number": 8},
        {"context": bytes(32)},
        {"pair": (b"q" * 32, b"p" * 32)},
        {"pair": (b"p" * 32, b"r" * 32)},
    ],
    ids=["run", "round", "context", "order", "peer"],
)
def test_another_run_round_context_or_pair_has_another_key(change):
    assert secure_sum.mask_key(b"s" * 32, **{**KEY, **change}) != secure_sum.mask_key(
        b"s" * 32, **KEY
    )
    assert secure_sum.mask_key(b"t" * 32, **KEY) != secure_sum.mask_key(b"s" * 32, **KEY)


def test_the_context_is_of_the_whole_contract_and_of_every_vector():
    adapter = np.arange(6, dtype=np.float32)
    other = adapter.copy()
    other[3] = np.nextafter(other[3], np.float32(9))
    told = [
        (CONTRACT, [adapter]),
        (CONTRACT, [other]),
        (CONTRACT, [adapter, adapter]),
        (CONTRACT, [adapter.reshape(2, 3)]),
        (dataclasses.replace(CONTRACT, clip_norm=0.06), [adapter]),
        (dataclasses.replace(CONTRACT, grid=2.0**-31), [adapter]),
        (dataclasses.replace(CONTRACT, round=9), [adapter]),
    ]
    assert len({secure_sum.context(*item) for item in told}) == len(told)
    assert secure_sum.context(CONTRACT, [adapter.copy()]) == secure_sum.context(*told[0])


@pytest.mark.parametrize("name", ["", "ab" * 31, "AB" * 32, "ab" * 32 + "\n", "zz" * 32])
def test_only_a_sha256_names_a_run(name):
    assert not secure_sum.is_run(name)
    assert secure_sum.is_run("ab" * 32)
