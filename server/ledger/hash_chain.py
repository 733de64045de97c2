"""Hash chain of a ledger's entries: their spelling, the rules of their order, and their totals.

No file is read or written here. An entry holds its own hash and that of the entry before, so a line
that is edited, moved or removed no longer fits its neighbours.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from userdp.server.ledger.query import Query
from userdp.sim.common import renamed
from userdp.sim.common.flatten import flatten

FORMAT = 2  # of new ledgers; those of format 1 are read and continued
# Fields of the header that a ledger of an earlier format lacks: what they were is unknown, and no
# difference to a resumed run's.
UNRECORDED: Mapping[int, frozenset[str]] = {
    1: frozenset({"cohort", "strategy_options", "data", "model", "base_dtype", "base_revision"}),
    FORMAT: frozenset(),
}
# Texts of notes that have a meaning, and are told for good.
SIMULATION_ONLY = "values without noise are written from here on"
INPUTS_BOUND = "the digests of the inputs are kept from here on"
INPUTS_UNKNOWN = "resumed without digests of the inputs that it started with"
# What it means that a ledger lacks an entry which the checkpoint, or a noted head, names.
NOT_IN_CHAIN = (
    "it is of another run, entries were removed from this ledger (a roll-back), or this is one "
    "branch of a fork: two copies of the run folder both went on, and the cost of both adds up"
)
Spent = list[tuple[dict[str, Any], int]]  # each distinct event, and how many rounds intended it
Entry = Mapping[str, Any]


def _check_noise(event: Mapping[str, Any], queries: Sequence[Query]) -> None:
    """Check that the queries together cost the event's Gaussian: ``sum 1/z_i^2 = 1/z^2``."""
    z = event.get("noise_multiplier")
    if not isinstance(z, int | float) or not (math.isfinite(z) and z >= 0):
        raise ValueError(f"Expected a finite event noise_multiplier >= 0, got {z!r}.")
    precision = math.fsum(query.precision for query in queries)
    if not math.isclose(precision, z**-2 if z > 0 else math.inf, rel_tol=1e-9):
        combined = precision**-0.5 if precision > 0 else math.inf
        names = ", ".join(query.name for query in queries)
        raise ValueError(
            f"The queries ({names}) combine to noise multiplier {combined}, but the event says {z}."
        )


def plain(value: Any, name: str) -> Any:
    """A deep copy of a value that JSON stores exactly.

    Args:
        value: of mappings with text keys, sequences, text, numbers, booleans and None.
        name: of the value, for messages.

    Raises:
        ValueError: the value, or a part of it, has no exact form in JSON; names the part.
    """
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{number}]") for number, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"{name}={value!r} has no exact form in JSON.")


def line_of(entry: Entry) -> bytes:
    """The only spelling of an entry that a ledger's file may hold, without its newline."""
    return json.dumps(entry, separators=(",", ":"), allow_nan=False).encode()


def seal(body: Entry, previous: str) -> dict[str, Any]:
    """The entry with the hash ``previous`` of the entry before, and with its own SHA-256 hash."""
    entry = {**body, "previous": previous}
    return {**entry, "hash": hashlib.sha256(line_of(entry)).hexdigest()}


def differences(stored: Entry, asked: Entry, ledger_format: int = FORMAT) -> list[str]:
    """Every field in which two headers differ, with both values; empty where they agree.

    Dotted names of older versions in the stored header count as today's. A field that ledgers of
    the stored one's format lack (`UNRECORDED`) is compared only where the stored one has it.
    """
    unknown = UNRECORDED[ledger_format] - set(stored)
    asked = {name: value for name, value in asked.items() if name not in unknown}
    old, new = flatten(renamed.current(stored)), flatten(asked)
    return [
        f"{name}: {old.get(name, 'absent')!r} in the ledger, {new.get(name, 'absent')!r} asked"
        for name in old | new
        if name not in old or name not in new or old[name] != new[name]
    ]


@dataclass
class Chain:
    """The state that the entries of a ledger add up to, entry by entry."""

    mechanism: dict[str, Any] = field(default_factory=dict)  # the header's
    created: str = ""
    format: int = FORMAT
    codes: list[str] = field(default_factory=list)  # distinct hashes of the run's code, in order
    entries: list[Entry] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    last_round: int = 0
    done: dict[int, bool] = field(default_factory=dict)  # intended round -> its release is stored
    spent: dict[str, int] = field(default_factory=dict)  # event as JSON -> times intended

    @property
    def head(self) -> str:
        """Hash of the last entry; empty before the first."""
        return self.hashes[-1] if self.hashes else ""

    @property
    def notes(self) -> frozenset[str]:
        """Texts of all notes."""
        return frozenset(str(e.get("text")) for e in self.entries if e["kind"] == "note")

    def read(self, line: bytes) -> None:
        """Check and add one line of a file.

        Raises:
            ValueError: the line is damaged, or may not come next.
            KeyError: a field of the entry is missing.
            TypeError, AttributeError: a field has a value of the wrong type.
        """
        entry = json.loads(line)
        if not isinstance(entry, dict) or line_of(entry) != line:
            raise ValueError("the line was not written by this program")
        body = {key: value for key, value in entry.items() if key not in ("previous", "hash")}
        if entry != seal(body, self.head):
            raise ValueError("its hash does not follow from its content and the line before")
        self.check(entry)
        self.add(entry)

    def check(self, entry: Entry) -> None:
        """Check that a sealed entry may come next.

        Raises:
            ValueError: it may not.
        """
        if (entry["kind"] == "header") != (not self.hashes):
            raise ValueError("a ledger has one header, as its first line")
        match entry["kind"]:
            case "header":
                if entry["format"] not in UNRECORDED:
                    known = " or ".join(map(str, UNRECORDED))
                    raise ValueError(f"ledger format {entry['format']!r}, expected {known}")
            case "intent":
                self._check_intent(entry["round"], entry["event"], entry["queries"])
            case "done":
                self._check_done(entry["round"], entry["release"])
            case "note":
                pass
            case kind:
                raise ValueError(f"unknown {kind=}")

    def _check_intent(self, number: int, event: Entry, queries: Sequence[Entry]) -> None:
        if not (isinstance(number, int) and number > self.last_round):
            raise ValueError(f"Expected a round after {self.last_round}, got {number!r}.")
        if self.mechanism.get("event", event) != event:  # a change would need a privacy filter
            raise ValueError(f"Round {number}: {event=} is not the header's.")
        _check_noise(event, [Query.from_dict(query) for query in queries])

    def _check_done(self, number: int, release: str) -> None:
        if self.done.get(number) is not False:
            raise ValueError(f"Round {number!r} has no open intent.")
        if not (isinstance(release, str) and release):
            raise ValueError(
                f"Round {number}: expected the digest of its release, got {release!r}."
            )

    def add(self, entry: Entry) -> None:
        """Add an entry that `check` has passed."""
        if entry.get("code", "") not in ("", *self.codes):
            self.codes.append(entry["code"])
        match entry["kind"]:
            case "header":
                self.mechanism, self.created = entry["mechanism"], entry["created"]
                self.format = entry["format"]
            case "intent":
                key = json.dumps(entry["event"], sort_keys=True)
                self.spent[key] = self.spent.get(key, 0) + 1
                self.last_round = entry["round"]
                self.done[self.last_round] = False
            case "done":
                self.done[entry["round"]] = True
        self.entries.append(entry)
        self.hashes.append(entry["hash"])

    def composition(self) -> Spent:
        """Each distinct event, and how many rounds intended it."""
        return [(json.loads(event), count) for event, count in self.spent.items()]
