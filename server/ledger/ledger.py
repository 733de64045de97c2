"""The write-ahead record of a run's releases, a file of hash-chained JSON lines that only grows.

A round is spent as soon as its intent is on disk, whether or not a release followed. The order is
``intend`` (returns after fsync), release, store, ``done``; a crash between any two of them leaves
an account that is at least what was released. Lines hold the public mechanism only: no user, no
realised cohort, no seed, and no time of a round (its length depends on who took part).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from userdp.server.ledger import hash_chain
from userdp.server.ledger.query import Query
from userdp.sim.common import errors

Spent = hash_chain.Spent


class LedgerError(ValueError):
    """The ledger's file is damaged, in use, missing, there already, or of another history."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a ledger's file says, once its chain and every round's noise have been recomputed."""

    header: dict[str, Any]  # the mechanism the run was started with
    created: str  # UTC, ISO 8601
    codes: tuple[str, ...]  # hashes of the code that started and resumed the run
    spent: Spent  # every intent, released or not
    rounds: int  # intents
    unfinished: tuple[int, ...]  # rounds intended and not known to be stored; they count
    head: str  # hash of the last entry
    torn_bytes: int  # of a line whose writing was interrupted; nothing was released under it


def verify(path: Path) -> Account:
    """Recompute a ledger without changing it.

    Raises:
        LedgerError: the file is missing, or a line does not follow from the one before, breaks the
            order of rounds, or records queries that do not combine to its event; names the line.
    """
    try:
        links, tail = _read(path, path.read_bytes())
    except FileNotFoundError as error:
        raise LedgerError(f"{path} does not exist.") from error
    return Account(
        header=links.mechanism,
        created=links.created,
        codes=tuple(links.codes),
        spent=links.composition(),
        rounds=len(links.done),
        unfinished=tuple(number for number, done in links.done.items() if not done),
        head=links.head,
        torn_bytes=len(tail),
    )


class Ledger:
    """A ledger open for writing by this process alone; make one with ``create`` or ``resume``."""

    def __init__(self, path: Path, file: BinaryIO, links: hash_chain.Chain) -> None:
        self._path, self._file, self._links = path, file, links

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any], *, code: str = "") -> Self:
        """Start a ledger whose header is the whole mechanism, as plain values.

        Where the header has an ``event``, every round must record it. ``code``: hash of the code.

        Raises:
            LedgerError: a file of that name exists.
            ValueError: a value has no exact form in JSON.
        """
        body = {
            "kind": "header",
            "format": hash_chain.FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": code,
            "mechanism": hash_chain.plain(header, "header"),
        }
        ledger = cls(path, _open(path, "xb"), hash_chain.Chain())
        ledger._lock()
        ledger._append(body)
        sync_folder(path.parent)
        return ledger

    @classmethod
    def resume(
        cls, path: Path, header: Mapping[str, Any], expected_head: str | None = None, code: str = ""
    ) -> Self:
        """Go on with a ledger; every intent in it stays spent. Other ``code`` is noted.

        Args:
            expected_head: the head that the run's checkpoint stored. It must occur in the chain:
                otherwise the checkpoint is of a fork, or releases were cut off this ledger.

        Raises:
            ConfigurationError: ``header`` differs from the ledger's; names fields and both values.
            LedgerError: the file is missing, in use, damaged, or without ``expected_head``.
        """
        ledger = cls(path, _open(path, "r+b"), hash_chain.Chain())
        try:
            ledger._lock()
            ledger._load(hash_chain.plain(header, "header"), expected_head, code)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def intend(self, number: int, event: Mapping[str, Any], queries: Sequence[Query]) -> None:
        """Spend round ``number``; on disk when this returns, so the release may follow.

        Args:
            event: the accounting event, with its ``noise_multiplier`` z.
            queries: the Gaussian queries of this round; sum 1/z_i^2 must be 1/z^2.

        Raises:
            ValueError: the queries do not combine to the event, the event is not the header's, or
                the number is not above every earlier one; nothing is written then.
        """
        body = {"kind": "intent", "round": number, "event": hash_chain.plain(event, "event")}
        self._append({**body, "queries": [query.to_dict() for query in queries]})

    def done(self, number: int, release_digest: str) -> None:
        """Record that the release of round ``number`` is stored, under the digest of its bytes.

        Raises:
            ValueError: the round has no intent or is done already, or the digest is empty.
        """
        self._append({"kind": "done", "round": number, "release": release_digest})

    @property
    def head(self) -> str:
        """Hash of the last entry; a checkpoint stores it, so that a fork is seen on resume."""
        return self._links.head

    @property
    def codes(self) -> tuple[str, ...]:
        """Hashes of the code that started and resumed the run."""
        return tuple(self._links.codes)

    @property
    def rounds_intended(self) -> int:
        return len(self._links.done)

    @property
    def next_round(self) -> int:
        """The first number never intended; 1 at the start. An unfinished round is not repeated."""
        return self._links.last_round + 1

    def is_done(self, number: int) -> bool:
        return self._links.done.get(number, False)

    def spent(self) -> Spent:
        """Each distinct event with how many rounds intended it, ready for an accountant."""
        return self._links.composition()

    def close(self) -> None:
        """Release the lock. Closing twice does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LedgerError(f"{self._path} is in use: another process runs this run.") from error

    def _load(self, asked: dict[str, Any], expected_head: str | None, code: str) -> None:
        content = self._file.read()
        self._links, tail = _read(self._path, content)
        differences = hash_chain.differences(self._links.mechanism, asked)
        if differences:
            raise errors.ConfigurationError(
                f"{self._path} is of another mechanism ({'; '.join(differences)}): "
                "resume with its own values, or start a new run."
            )
        if expected_head is not None and expected_head not in self._links.hashes:
            raise LedgerError(
                f"{self._path} has no entry {expected_head}, which the checkpoint names: the "
                "checkpoint is of another run, or entries were removed from this ledger."
            )
        self._file.truncate(len(content) - len(tail))
        self._file.seek(0, os.SEEK_END)
        self._append({"kind": "note", "text": "resumed", "torn_bytes": len(tail), "code": code})

    def _append(self, body: Mapping[str, Any]) -> None:
        """Check, write, sync, and only then count; after a failed write the ledger is closed."""
        entry = hash_chain.seal(body, self.head)
        self._links.check(entry)
        line = hash_chain.line_of(entry) + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(f"{self._path}: the disk took part of a line.")
            os.fsync(self._file.fileno())
        except OSError:
            self.close()
            raise
        self._links.add(entry)


def _open(path: Path, mode: Literal["xb", "r+b"]) -> BinaryIO:
    try:
        return open(path, mode, buffering=0)
    except FileExistsError as error:
        raise LedgerError(f"{path} exists: resume that run, or choose a new folder.") from error
    except FileNotFoundError as error:
        raise LedgerError(f"{path} does not exist: check the run folder.") from error


def _read(path: Path, content: bytes) -> tuple[hash_chain.Chain, bytes]:
    """The chain of a file, and what a crash left of a line that was being written.

    Only a line without its newline can be torn: its fsync never returned, so nothing was released
    under it. A finished line that does not fit is damage, the last one too.
    """
    *lines, tail = content.split(b"\n")
    links = hash_chain.Chain()
    for number, line in enumerate(lines, start=1):
        try:
            links.read(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(f"{path}, line {number}: {error}") from error
    if not links.hashes:
        raise LedgerError(f"{path} has no header, so nothing was released: delete it, start anew.")
    return links, tail


def sync_folder(folder: Path) -> None:
    """Make a new file's name durable, not only its content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
