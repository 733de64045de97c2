"""Write-ahead ledger of a run's releases: an append-only file of hash-chained JSON lines.

A round is spent as soon as its intent is on disk, whether or not a release followed. The order is
``intend`` (returns after fsync), release, store, ``done``. After a crash between any two of them,
the ledger accounts for at least what was released. Lines hold the public mechanism only: no user,
no realised cohort, no seed, and no time of a round (its length depends on who took part).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from userdp.server.ledger import hash_chain
from userdp.server.ledger.query import Query
from userdp.sim.common import durable_file, errors

Spent = hash_chain.Spent


class LedgerError(ValueError):
    """The ledger's file is damaged, in use, missing, exists already, or has another history."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Content of a ledger's file, after its chain and the noise of every round were recomputed."""

    header: dict[str, Any]  # the mechanism the run was started with
    created: str  # UTC, ISO 8601
    codes: tuple[str, ...]  # hashes of the code that started and resumed the run
    spent: Spent  # events of all intents, released or not
    rounds: int  # number of intents
    unfinished: tuple[int, ...]  # rounds intended and not known to be stored; they are spent
    head: str  # hash of the last entry
    entries: tuple[hash_chain.Entry, ...]  # all lines, in order
    format: int  # of the ledger
    torn_bytes: int  # length of a last line that was cut by a crash; nothing was released under it

    @property
    def notes(self) -> frozenset[str]:
        """Texts of all notes."""
        return frozenset(str(e.get("text")) for e in self.entries if e["kind"] == "note")

    @property
    def simulation_only(self) -> bool:
        """Whether any process of the run ever wrote values without noise."""
        return hash_chain.SIMULATION_ONLY in self.notes

    def of_kind(self, kind: str) -> dict[int, hash_chain.Entry]:
        """The entries of a kind that belongs to rounds ("intent" or "done"), by round."""
        return {entry["round"]: entry for entry in self.entries if entry["kind"] == kind}


def verify(path: Path) -> Account:
    """Recompute a ledger without changing it.

    Raises:
        LedgerError: the file is missing, or a line does not follow from the one before, breaks the
            order of rounds, or records queries that do not combine to its event; names the line.
    """
    try:
        chain, tail = _read(path, path.read_bytes())
    except FileNotFoundError as error:
        raise LedgerError(f"{path} does not exist.") from error
    return _account(chain, tail)


def _account(chain: hash_chain.Chain, tail: bytes) -> Account:
    return Account(
        header=chain.mechanism,
        created=chain.created,
        codes=tuple(chain.codes),
        spent=chain.composition(),
        rounds=len(chain.done),
        unfinished=tuple(number for number, done in chain.done.items() if not done),
        head=chain.head,
        entries=tuple(chain.entries),
        format=chain.format,
        torn_bytes=len(tail),
    )


class Ledger:
    """A ledger that this process alone has open for writing; from `create` or `resume`."""

    def __init__(self, path: Path, file: BinaryIO, chain: hash_chain.Chain) -> None:
        self._path, self._file, self._chain = path, file, chain

    @classmethod
    def create(
        cls,
        path: Path,
        header: Mapping[str, Any],
        *,
        code: str = "",
        before: Callable[[], None] = lambda: None,
    ) -> Self:
        """Start a ledger: the file is empty and locked until its first line is on disk.

        A file without a whole first line is the rest of such a start: nothing was released under
        it, and it is written anew.

        Args:
            path: of the new file.
            header: the whole mechanism as plain values. Where it has an ``event``, every round must
                record that event.
            code: hash of the code.
            before: stores what the run is resumed from, which has to be there before the header
                is; what it raises passes through.

        Raises:
            LedgerError: a ledger of that name exists or is in use, or its folder does not exist.
            ValueError: a value has no exact form in JSON.
        """
        body = {
            "kind": "header",
            "format": hash_chain.FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": code,
            "mechanism": hash_chain.plain(header, "header"),
        }
        with durable_file.naming(path):
            ledger = cls(path, _open(path, "a+b"), hash_chain.Chain())
            try:
                ledger._lock()
                ledger._empty()
                before()
                ledger._append(body)
                durable_file.sync_folder(path.parent)
            except BaseException:
                ledger.close()
                raise
        return ledger

    @classmethod
    def resume(
        cls,
        path: Path,
        header: Mapping[str, Any],
        expected_head: str | None = None,
        code: str = "",
        check: Callable[[Account], None] = lambda _: None,
    ) -> Self:
        """Continue a ledger; every intent in it stays spent.

        Args:
            path: of the file.
            header: of the run that resumes; must equal the ledger's.
            expected_head: the head that the run's checkpoint stored. It must occur in the chain:
                otherwise the checkpoint is of a fork, or entries were removed from this ledger.
            code: hash of the code; recorded where it differs.
            check: compares other evidence with the ledger, which is locked by then, before
                anything is written; what it raises passes through.

        Raises:
            ConfigurationError: ``header`` differs from the ledger's; names fields and both values.
            LedgerError: the file is missing, in use, damaged, or without ``expected_head``.
            ValueError: a value of ``header`` has no exact form in JSON.
        """
        ledger = cls(path, _open(path, "r+b"), hash_chain.Chain())
        try:
            ledger._lock()
            content = ledger._file.read()
            tail = ledger._load(content, hash_chain.plain(header, "header"), expected_head)
            check(_account(ledger._chain, tail))
            ledger._continue(content, tail, code)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def intend(self, number: int, event: Mapping[str, Any], queries: Sequence[Query]) -> None:
        """Spend round ``number``: its intent is on disk when this returns. A release may follow.

        Args:
            number: of the round; above every earlier one.
            event: the accounting event, with its ``noise_multiplier`` z.
            queries: the Gaussian queries of this round; ``sum 1/z_i^2`` must be ``1/z^2``.

        Raises:
            ValueError: the queries do not combine to the event, the event is not the header's or
                has no exact form in JSON, or the number is not above every earlier one; nothing is
                written then.
            OSError: the disk did not take the whole line; the ledger is closed then.
        """
        body = {"kind": "intent", "round": number, "event": hash_chain.plain(event, "event")}
        self._append({**body, "queries": [query.to_dict() for query in queries]})

    def done(self, number: int, release_digest: str) -> None:
        """Record that the release of round ``number`` is stored, under the digest of its bytes.

        Raises:
            ValueError: the round has no intent or is done already, or the digest is empty.
            OSError: the disk did not take the whole line; the ledger is closed then.
        """
        self._append({"kind": "done", "round": number, "release": release_digest})

    def note(self, text: str) -> None:
        """Record a fact about the run for good, once: one of the texts in `hash_chain`.

        Raises:
            OSError: the disk did not take the whole line; the ledger is closed then.
        """
        if text not in self._chain.notes:
            self._append({"kind": "note", "text": text})

    @property
    def notes(self) -> frozenset[str]:
        """Texts of all notes."""
        return self._chain.notes

    @property
    def head(self) -> str:
        """Hash of the last entry; a checkpoint stores it, so that a resume detects a fork."""
        return self._chain.head

    @property
    def run(self) -> str:
        """Name of the run: the hash of the ledger's first line, the same after every resume."""
        return self._chain.hashes[0]

    @property
    def format(self) -> int:
        """Format of the file, which a resumed run keeps."""
        return self._chain.format

    @property
    def header(self) -> Mapping[str, Any]:
        """The mechanism that the run was started with, as the ledger holds it."""
        return self._chain.mechanism

    @property
    def codes(self) -> tuple[str, ...]:
        """Hashes of the code that started and resumed the run."""
        return tuple(self._chain.codes)

    @property
    def rounds_intended(self) -> int:
        """Number of intents, all of which are spent."""
        return len(self._chain.done)

    @property
    def next_round(self) -> int:
        """Number after the last intended one; 1 at the start. No unfinished round is repeated."""
        return self._chain.last_round + 1

    def spent(self) -> Spent:
        """Each distinct event, and how many rounds intended it."""
        return self._chain.composition()

    def close(self) -> None:
        """Close the file and release its lock; closing again does nothing."""
        self._file.close()

    @property
    def simulation_only(self) -> bool:
        """Whether any process of the run ever wrote values without noise."""
        return hash_chain.SIMULATION_ONLY in self.notes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LedgerError(f"{self._path} is in use: another process runs this run.") from error

    def _empty(self) -> None:
        """Remove what an interrupted start has left; refuse a ledger."""
        self._file.seek(0)
        if b"\n" in self._file.read():
            raise LedgerError(f"{self._path} exists: resume that run, or choose a new folder.")
        self._file.truncate(0)

    def _load(self, content: bytes, header: dict[str, Any], expected_head: str | None) -> bytes:
        """Read and compare; returns the rest of a torn line."""
        self._chain, tail = _read(self._path, content)
        stored, version = self._chain.mechanism, self._chain.format
        if differences := hash_chain.differences(stored, header, version):
            raise errors.ConfigurationError(
                f"{self._path} is of another mechanism ({'; '.join(differences)}): "
                "resume with its own values, or start a new run."
            )
        if expected_head is not None and expected_head not in self._chain.hashes:
            raise LedgerError(
                f"{self._path} has no entry {expected_head}, which the checkpoint names: "
                f"{hash_chain.NOT_IN_CHAIN}."
            )
        return tail

    def _continue(self, content: bytes, tail: bytes, code: str) -> None:
        """Cut a torn line off, and note that the run goes on."""
        self._file.truncate(len(content) - len(tail))
        self._file.seek(0, os.SEEK_END)
        self._append({"kind": "note", "text": "resumed", "torn_bytes": len(tail), "code": code})

    def _append(self, body: Mapping[str, Any]) -> None:
        """Check, write, sync and then add an entry; after a failed write, close the ledger."""
        entry = hash_chain.seal(body, self.head)
        self._chain.check(entry)
        line = hash_chain.line_of(entry) + b"\n"
        try:
            with durable_file.naming(self._path):
                durable_file.write_all(self._file, line)
                os.fsync(self._file.fileno())
        except OSError:
            self.close()
            raise
        self._chain.add(entry)


def begun(path: Path) -> bool:
    """Whether a ledger has its first line, without which nothing can have been released.

    Raises:
        OSError: the file is there and cannot be read.
    """
    return path.exists() and b"\n" in path.read_bytes()


def _open(path: Path, mode: Literal["a+b", "r+b"]) -> BinaryIO:
    try:
        return open(path, mode, buffering=0)
    except FileNotFoundError as error:
        raise LedgerError(f"{path} does not exist: check the run folder.") from error


def _read(path: Path, content: bytes) -> tuple[hash_chain.Chain, bytes]:
    """The chain of a file, and the rest of a line whose writing a crash interrupted.

    Only a line without its newline can be such a rest: its fsync never returned, so nothing was
    released under it. A complete line that does not fit is damage, even if it is the last one.
    """
    *lines, tail = content.split(b"\n")
    chain = hash_chain.Chain()
    for number, line in enumerate(lines, start=1):
        try:
            chain.read(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(f"{path}, line {number}: {error}") from error
    if not chain.hashes:
        raise LedgerError(f"{path} has no header, so nothing was released: delete it, start anew.")
    return chain, tail
