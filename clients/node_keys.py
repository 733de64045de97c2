"""Keys of the nodes for secure sums: the roster of all public keys, and a private key for each.

A folder of keys holds ``roster.json``, the X25519 public keys (RFC 7748) of all nodes in the order
of their partitions, and ``node-I.key``, private keys in PEM. A node in a deployment has the roster
and its own private key alone, both from its operator: a server that could hand out public keys
could put its own in and read every sum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError

ROSTER = "roster.json"
_BYTES, _PRIME = 32, 2**255 - 19  # of a public key, which is a number below the prime


@dataclass(frozen=True)
class Roster:
    """The public keys of all nodes of a federation, in the order of their partitions.

    Raises:
        ValueError: there are fewer than two, or one is no public key or that of another node too.
    """

    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.keys) < 2:
            raise ValueError("it has fewer than two nodes")
        if len(set(self.keys)) < len(self.keys):
            raise ValueError("two nodes have the same key")
        for place, key in enumerate(self.keys):
            if len(key) != _BYTES or int.from_bytes(key, "little") >= _PRIME:
                raise ValueError(f"the key of node {place} is no X25519 public key")

    @property
    def digest(self) -> str:
        """SHA-256 of the keys in their order, by which nodes and server see that they agree."""
        return hashlib.sha256(b"".join(self.keys)).hexdigest()


def private_path(folder: Path, partition: int) -> Path:
    """The file of a node's private key."""
    return folder / f"node-{partition}.key"


def private_paths(folder: Path) -> list[Path]:
    """The files of all private keys that lie in a folder."""
    return sorted(folder.glob("node-*.key"))


def make(folder: Path, nodes: int) -> Roster:
    """Make fresh keys for all nodes of a federation on one machine.

    Args:
        folder: created where it is missing.
        nodes: how many, two or more.

    Raises:
        ConfigurationError: the folder holds keys already.
        ValueError: there are fewer than two nodes.
    """
    if (folder / ROSTER).exists():
        raise ConfigurationError(f"runtime.keys={folder}: it holds keys already; take a new one.")
    return write_roster(folder, [make_private(folder, partition) for partition in range(nodes)])


def make_private(folder: Path, partition: int) -> bytes:
    """Make the private key of one node, readable by its owner alone; returns the public key.

    Raises:
        ConfigurationError: the node has a key already.
    """
    path = private_path(folder, partition)
    if path.exists():
        raise ConfigurationError(f"runtime.keys={folder}: {path.name} is there; take a new folder.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = X25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    durable_file.replace(path, pem, mode=0o600)
    return key.public_key().public_bytes_raw()


def write_roster(folder: Path, keys: Sequence[bytes]) -> Roster:
    """Write the roster of a federation.

    Args:
        folder: of the keys.
        keys: public keys of 32 bytes, in the order of the partitions.

    Raises:
        ValueError: as `Roster`.
    """
    made = Roster(tuple(keys))
    text = json.dumps({"format": 1, "nodes": [key.hex() for key in keys]}, indent=1)
    durable_file.replace(folder / ROSTER, text.encode())
    return made


def roster(folder: Path) -> Roster:
    """Read the roster of a folder of keys.

    Raises:
        ConfigurationError: there is none, or it is damaged or unsafe.
    """
    path = folder / ROSTER
    try:
        stored = json.loads(path.read_bytes())
        return Roster(tuple(bytes.fromhex(key) for key in stored["nodes"]))
    except OSError as error:
        raise ConfigurationError(f"runtime.keys={folder}: {ROSTER}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError) as error:
        told = str(error) if type(error) is ValueError else "it is damaged"
        raise ConfigurationError(f"runtime.keys={folder}: {ROSTER}: {told}.") from None


def private(folder: Path, partition: int) -> X25519PrivateKey:
    """Read the private key of one node, which nobody but its owner may be able to read.

    Raises:
        ConfigurationError: it is missing, damaged, readable by others, or not the roster's.
    """
    path = private_path(folder, partition)
    start = f"runtime.keys={folder}: {path.name}"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigurationError(f"{start}: {error.strerror}.") from None
    except (ValueError, TypeError):
        raise ConfigurationError(f"{start}: it holds no private key.") from None
    if mode & 0o077:
        raise ConfigurationError(f"{start}: others may read it; chmod 600 {path}")
    if not isinstance(key, X25519PrivateKey):
        raise ConfigurationError(f"{start}: it holds a key of another kind than X25519.")
    if key.public_key().public_bytes_raw() != roster(folder).keys[partition]:
        raise ConfigurationError(f"{start}: it is not the key of node {partition} in {ROSTER}.")
    return key


def shared_secret(key: X25519PrivateKey, public: bytes) -> bytes:
    """32 bytes that two nodes share: each computes them from its own key and the other's.

    Raises:
        ConfigurationError: ``public`` is a point of low order, under which all secrets are zero.
    """
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ConfigurationError(
            f"runtime.keys: {ROSTER} holds a public key that no private key has; make new keys."
        ) from None


@contextlib.contextmanager
def temporary(root: Path, nodes: int) -> Iterator[Path]:
    """A folder of fresh keys for one simulation, deleted at its end.

    Args:
        root: folder in which it is made, for example of the cache.
        nodes: how many.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="keys-", dir=root))  # mode 0700
    try:
        make(folder, nodes)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
