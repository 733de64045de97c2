"""Keys that would not hide a sum are refused in one line that names the file."""

from __future__ import annotations

import json
import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from userdp.clients import node_keys
from userdp.sim.common.errors import ConfigurationError


@pytest.fixture
def folder(tmp_path):
    node_keys.make(tmp_path / "keys", 3)
    return tmp_path / "keys"


def write(folder, keys):
    (folder / "roster.json").write_text(json.dumps({"format": 1, "nodes": keys}))


def stored(folder):
    return json.loads((folder / "roster.json").read_text())["nodes"]


def test_private_keys_are_for_their_owner_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        node_keys.make(tmp_path / "keys", 3)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for partition in range(3):
        path = node_keys.private_path(tmp_path / "keys", partition)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_two_nodes_share_a_secret_of_their_own(folder):
    keys = node_keys.roster(folder).keys
    own = [node_keys.private(folder, partition) for partition in range(3)]
    secrets = {}
    for i in range(3):
        for j in range(3):
            if i != j:
                pair = frozenset((i, j))
                secret = node_keys.shared_secret(own[i], keys[j])
                assert secrets.setdefault(pair, secret) == secret
    assert len(set(secrets.values())) == 3


def test_keys_are_never_written_over(folder):
    before = (folder / "roster.json").read_bytes()
    with pytest.raises(ConfigurationError, match=r"runtime.keys=.*holds keys already"):
        node_keys.make(folder, 3)
    assert (folder / "roster.json").read_bytes() == before


def twice(keys):
    return [keys[0], keys[1], keys[0]]


def same_point(keys):
    """Another spelling of the first key: X25519 ignores the highest bit (RFC 7748, section 5)."""
    raw = bytearray(bytes.fromhex(keys[0]))
    raw[31] |= 0x80
    return [*keys[:2], raw.hex()]


WRONG = {
    "same key": twice,
    "node 2 is no X25519": same_point,
    "node 0 is no X25519": lambda keys: [keys[0][:-2], *keys[1:]],
    "node 1 is no X25519": lambda keys: [keys[0], "ff" * 32, keys[2]],
    "fewer than two": lambda keys: keys[:1],
    "non-hexadecimal": lambda keys: ["z" * 64, *keys[1:]],
}


@pytest.mark.parametrize("reason", WRONG)
def test_an_unsafe_roster_is_refused(folder, reason):
    write(folder, WRONG[reason](stored(folder)))
    with pytest.raises(ConfigurationError, match=rf"runtime.keys=.*roster.json: .*{reason}"):
        node_keys.roster(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodes": 3}', '{"nodes": [1, 2]}', "\xff"])
def test_a_damaged_roster_is_refused(folder, text):
    (folder / "roster.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"roster.json: it is damaged"):
        node_keys.roster(folder)


@pytest.mark.parametrize("point", [0, 1, 2**255 - 20], ids=["zero", "one", "minus one"])
def test_a_point_of_low_order_shares_no_secret(folder, point):
    """All secrets with such a point are zero: whoever put it there knows every mask."""
    with pytest.raises(ConfigurationError, match="no private key has"):
        node_keys.shared_secret(node_keys.private(folder, 0), point.to_bytes(32, "little"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_private_key_that_others_can_read_is_refused(folder, mode):
    node_keys.private_path(folder, 1).chmod(mode)
    with pytest.raises(ConfigurationError, match=r"node-1.key: others may read it; chmod 600"):
        node_keys.private(folder, 1)


def test_the_key_of_another_node_is_refused(folder):
    node_keys.private_path(folder, 2).rename(node_keys.private_path(folder, 0))
    with pytest.raises(ConfigurationError, match="not the key of node 0"):
        node_keys.private(folder, 0)
    with pytest.raises(ConfigurationError, match=r"node-2.key: No such file"):
        node_keys.private(folder, 2)


def test_a_key_of_another_kind_and_no_key_are_refused(folder):
    path = node_keys.private_path(folder, 0)
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.write_bytes(pem)
    with pytest.raises(ConfigurationError, match="another kind than X25519"):
        node_keys.private(folder, 0)
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="holds no private key"):
        node_keys.private(folder, 0)


def test_keys_of_a_simulation_are_deleted_also_after_an_error(tmp_path):
    def use():
        with node_keys.temporary(tmp_path / "cache", 2) as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert len(node_keys.roster(folder).keys) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert list((tmp_path / "cache").iterdir()) == []
