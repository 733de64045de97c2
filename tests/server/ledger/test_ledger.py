"""The ledger accounts for at least what was released, and detects changes of its past."""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from userdp.server.ledger import ledger
from userdp.server.ledger.query import Query
from userdp.sim.common import errors

EVENT = {"sampling_rate": 0.1, "noise_multiplier": 2.0, "group_size": 1}
UPDATE = Query(name="update", sensitivity=0.5, noise_std=1.0)
HEADER = {
    "strategy": "user_wise",
    "unit": "user",
    "adjacency": "add-or-remove-one-user",
    "event": EVENT,
    "records_per_user": 2,
    "clip_norm": 0.5,
    "denominator": 25.6,
    "declared_users": 2484,
    "delta": 1e-5,
    "selection": "random",
    "resample": False,
    "local": {"steps": 1, "lr": 0.01},
    "cohort_cap": None,
}
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def released(path, rounds):
    """A ledger of ``rounds`` finished rounds, closed."""
    with ledger.Ledger.create(path, HEADER) as book:
        for number in range(1, rounds + 1):
            book.intend(number, EVENT, [UPDATE])
            book.done(number, f"digest {number}")
    return path


def test_the_account_is_the_intents_and_survives_reopening(path):
    released(path, 3)
    account = ledger.verify(path)
    assert account.header == HEADER
    assert (account.spent, account.rounds, account.unfinished) == ([(EVENT, 3)], 3, ())
    with ledger.Ledger.resume(path, HEADER) as book:
        assert (book.spent(), book.next_round, book.rounds_intended) == ([(EVENT, 3)], 4, 3)


def test_hashes_follow_from_an_independent_computation(path):
    previous = ""
    for line in released(path, 2).read_text().splitlines():
        entry = json.loads(line)
        claimed = entry.pop("hash")
        assert entry["previous"] == previous
        spelled = json.dumps(entry, separators=(",", ":"))
        previous = hashlib.sha256(spelled.encode()).hexdigest()
        assert claimed == previous
    assert ledger.verify(path).head == previous


def test_lines_hold_no_time_and_nothing_but_the_mechanism(path):
    entries = [json.loads(line) for line in released(path, 1).read_text().splitlines()]
    chained = {"kind", "previous", "hash"}
    assert [set(entry) - chained for entry in entries] == [
        {"format", "created", "code", "mechanism"},
        {"round", "event", "queries"},
        {"round", "release"},
    ]


def test_distinct_events_are_counted_apart(path):
    header = {key: value for key, value in HEADER.items() if key != "event"}
    other = {**EVENT, "sampling_rate": 0.2}
    with ledger.Ledger.create(path, header) as book:
        for number, event in enumerate([EVENT, other, EVENT, EVENT], start=1):
            book.intend(number, dict(reversed(event.items())), [UPDATE])
        assert len(book.spent()) == 2
        by_rate = {event["sampling_rate"]: count for event, count in book.spent()}
        assert by_rate == {0.1: 3, 0.2: 1}


def test_rounds_are_intended_once_in_order_and_refusals_write_nothing(path):
    with ledger.Ledger.create(path, HEADER) as book:
        book.intend(2, EVENT, [UPDATE])
        before = path.read_bytes()
        for number in (2, 1, 0):
            with pytest.raises(ValueError, match="Expected a round after 2"):
                book.intend(number, EVENT, [UPDATE])
        with pytest.raises(ValueError, match="no open intent"):
            book.done(3, "digest")
        with pytest.raises(ValueError, match="digest"):
            book.done(2, "")
        with pytest.raises(ValueError, match="not the header's"):
            book.intend(3, {**EVENT, "sampling_rate": 0.2}, [UPDATE])
        with pytest.raises(ValueError, match=r"event\.sampling_rate=inf"):
            book.intend(3, {**EVENT, "sampling_rate": math.inf}, [UPDATE])
        assert path.read_bytes() == before
        book.done(2, "digest")
        with pytest.raises(ValueError, match="no open intent"):
            book.done(2, "digest")


def changed(value):
    if isinstance(value, dict):
        first = next(iter(value))
        return {**value, first: changed(value[first])}
    if isinstance(value, str):
        return value + "x"
    return 1 if value is None else value + 1


@pytest.mark.parametrize("name", HEADER)
def test_resuming_with_another_mechanism_names_field_and_both_values(path, name):
    before = released(path, 1).read_bytes()
    other = changed(HEADER[name])
    with pytest.raises(errors.ConfigurationError, match=name) as refusal:
        ledger.Ledger.resume(path, {**HEADER, name: other})
    old, new = HEADER[name], other
    if isinstance(old, dict):
        old, new = next(iter(old.values())), next(iter(new.values()))
    assert f"{old!r} in the ledger, {new!r} asked" in str(refusal.value)
    without = {key: value for key, value in HEADER.items() if key != name}
    with pytest.raises(errors.ConfigurationError, match=name):
        ledger.Ledger.resume(path, without)
    with pytest.raises(errors.ConfigurationError, match="extra"):
        ledger.Ledger.resume(path, {**HEADER, "extra": 1})
    assert path.read_bytes() == before


def test_a_header_that_json_cannot_hold_is_refused_and_leaves_no_file(path):
    for header in ({"clip": math.nan}, {"nested": {"path": Path()}}, {"map": {1: 2}}):
        with pytest.raises(ValueError, match="header"):
            ledger.Ledger.create(path, header)
    assert not path.exists()


def test_a_second_ledger_of_one_run_is_refused(path):
    released(path, 1)
    with pytest.raises(ledger.LedgerError, match="exists"):
        ledger.Ledger.create(path, HEADER)
    with pytest.raises(ledger.LedgerError, match="not exist"):
        ledger.Ledger.resume(path.with_name("none"), HEADER)
    with pytest.raises(ledger.LedgerError, match="not exist"):
        ledger.verify(path.with_name("none"))


def test_every_change_of_one_byte_is_noticed(path):
    sound = released(path, 2).read_bytes()
    for position in range(len(sound) - 1):
        damaged = bytearray(sound)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ledger.LedgerError, match="line"):
            ledger.verify(path)


@pytest.mark.parametrize("where", range(4))
def test_lines_taken_out_or_swapped_are_noticed_at_their_number(path, where):
    lines = released(path, 2).read_bytes().splitlines(keepends=True)
    swapped = list(lines)
    swapped[where], swapped[where + 1] = swapped[where + 1], swapped[where]
    for edited in (lines[:where] + lines[where + 1 :], swapped):
        path.write_bytes(b"".join(edited))
        with pytest.raises(ledger.LedgerError, match=f"line {where + 1}:"):
            ledger.verify(path)
        with pytest.raises(ledger.LedgerError, match=f"line {where + 1}:"):
            ledger.Ledger.resume(path, HEADER)


def test_a_forger_who_recomputes_the_chain_cannot_lower_the_noise(path):
    """Hashes are no secret; the recorded noise must still combine to the event."""
    entries = [json.loads(line) for line in released(path, 1).read_text().splitlines()]
    entries[1]["queries"][0]["noise_std"] *= 2 / 3
    previous, lines = "", []
    for entry in entries:
        body = {key: value for key, value in entry.items() if key not in ("previous", "hash")}
        sealed = {**body, "previous": previous}
        previous = hashlib.sha256(json.dumps(sealed, separators=(",", ":")).encode()).hexdigest()
        lines.append(json.dumps({**sealed, "hash": previous}, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ledger.LedgerError, match=r"line 2: .*combine"):
        ledger.verify(path)


def test_an_end_cut_off_is_seen_from_the_checkpoint(path):
    released(path, 2)
    head = ledger.verify(path).head
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    assert ledger.verify(path).rounds == 1
    with pytest.raises(ledger.LedgerError, match="checkpoint"):
        ledger.Ledger.resume(path, HEADER, expected_head=head)


def test_a_checkpoint_of_a_fork_is_refused_and_an_older_one_is_not(path):
    released(path, 1)
    older = ledger.verify(path).head
    copy = path.with_name("copy.jsonl")
    copy.write_bytes(path.read_bytes())
    heads = []
    for book_path, digest in ((path, "a"), (copy, "b")):
        with ledger.Ledger.resume(book_path, HEADER, expected_head=older) as book:
            book.intend(2, EVENT, [UPDATE])
            book.done(2, digest)
            heads.append(book.head)
    with pytest.raises(ledger.LedgerError, match="checkpoint"):
        ledger.Ledger.resume(path, HEADER, expected_head=heads[1])
    with ledger.Ledger.resume(path, HEADER, expected_head=older) as book:
        assert book.spent() == [(EVENT, 2)]


@pytest.mark.parametrize("length", [1, 40, -1])
def test_a_line_torn_while_it_was_written_is_cut_and_noted(path, length):
    released(path, 1)
    with ledger.Ledger.resume(path, HEADER) as book:
        sound = path.read_bytes()
        book.intend(2, EVENT, [UPDATE])
    torn = path.read_bytes()[len(sound) :][:length]
    path.write_bytes(sound + torn)
    assert ledger.verify(path).torn_bytes == len(torn)
    with ledger.Ledger.resume(path, HEADER) as book:
        assert book.next_round == 2
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["kind"], last["torn_bytes"]) == ("note", len(torn))
    assert ledger.verify(path).torn_bytes == 0


def test_a_broken_finished_last_line_is_damage(path):
    """Were it cut off, breaking the last intent by hand would make the run cheaper."""
    sound = released(path, 1).read_bytes()
    path.write_bytes(sound + b'{"kind": "intent"\n')
    with pytest.raises(ledger.LedgerError, match="line 4"):
        ledger.Ledger.resume(path, HEADER)


def test_an_empty_file_tells_that_nothing_was_released(path):
    path.write_bytes(b'{"kind":"head')
    with pytest.raises(ledger.LedgerError, match="nothing was released"):
        ledger.Ledger.resume(path, HEADER)


def test_after_a_failed_write_the_ledger_takes_nothing_more(path, monkeypatch):
    book = ledger.Ledger.create(path, HEADER)

    def full(_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            book.intend(1, EVENT, [UPDATE])
    assert book.rounds_intended == 0
    with pytest.raises(ValueError, match="closed"):
        book.intend(1, EVENT, [UPDATE])
    with ledger.Ledger.resume(path, HEADER) as again:
        assert again.rounds_intended <= 1  # counted if it reached the disk after all


def test_intent_is_synced_before_it_returns(path, monkeypatch):
    sizes = []
    real = ledger.os.fsync
    with ledger.Ledger.create(path, HEADER) as book:
        monkeypatch.setattr(
            ledger.os, "fsync", lambda file: (sizes.append(path.stat().st_size), real(file))
        )
        book.intend(1, EVENT, [UPDATE])
        assert sizes == [path.stat().st_size]


CRASHING = """
import os, pathlib, sys
from userdp.server.ledger import ledger
from userdp.server.ledger.query import Query
event, header, folder, point = {event!r}, {header!r}, pathlib.Path(sys.argv[1]), sys.argv[2]
update = Query(name="update", sensitivity=0.5, noise_std=1.0)
book = ledger.Ledger.create(folder / "ledger.jsonl", header)
for number in (1, 2):
    book.intend(number, event, [update])
    if (number, point) == (2, "intended"): os._exit(9)
    with open(folder / "released", "a") as file: file.write("x")
    if (number, point) == (2, "released"): os._exit(9)
    book.done(number, "digest")
os._exit(9)
"""


@pytest.mark.parametrize("point", ["intended", "released", "done"])
def test_a_process_killed_anywhere_leaves_an_account_of_all_it_released(path, point):
    code = CRASHING.format(event=EVENT, header=HEADER)
    command = [sys.executable, "-c", code, str(path.parent), point]
    assert subprocess.run(command, cwd=REPOSITORY, timeout=60).returncode == 9
    releases = len(path.with_name("released").read_text())
    account = ledger.verify(path)
    assert account.rounds == 2 >= releases
    assert account.unfinished == (() if point == "done" else (2,))
    with ledger.Ledger.resume(path, HEADER) as book:
        assert (book.next_round, book.spent()) == (3, [(EVENT, 2)])
        with pytest.raises(ValueError, match="after 2"):
            book.intend(2, EVENT, [UPDATE])


def test_an_exception_between_intent_and_release_still_spends_the_round(path):
    def failing_round(book):
        book.intend(1, EVENT, [UPDATE])
        raise RuntimeError

    with pytest.raises(RuntimeError), ledger.Ledger.create(path, HEADER) as book:
        failing_round(book)
    with ledger.Ledger.resume(path, HEADER) as book:
        assert (book.next_round, book.rounds_intended) == (2, 1)
    assert ledger.verify(path).unfinished == (1,)


def test_a_second_process_is_refused_while_the_ledger_is_open(path):
    code = (
        "import json, pathlib, sys; from userdp.server.ledger import ledger; "
        "ledger.Ledger.resume(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(path), json.dumps(HEADER)]
    with ledger.Ledger.create(path, HEADER):
        second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60)
        assert second.returncode == 1
        assert b"is in use" in second.stderr
        with pytest.raises(ledger.LedgerError, match="in use"):
            ledger.Ledger.resume(path, HEADER)
    assert subprocess.run(command, cwd=REPOSITORY, timeout=60).returncode == 0


def test_mended_code_may_go_on_and_is_recorded(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with ledger.Ledger.create(path, HEADER, code="first"):
        pass
    for code in ("first", "second", "second"):
        with ledger.Ledger.resume(path, HEADER, code=code) as book:
            codes = book.codes
    assert codes == ledger.verify(path).codes == ("first", "second")


def test_what_is_stored_before_a_ledger_begins_finds_it_empty_and_locked(tmp_path):
    path = tmp_path / "ledger.jsonl"

    def stopped() -> None:
        assert path.read_bytes() == b""
        with pytest.raises(ledger.LedgerError, match="in use"):
            ledger.Ledger.create(path, {})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.Ledger.create(path, {}, before=stopped)
    assert not ledger.begun(path)
    path.write_bytes(b'{"kind":"head')  # the rest of such a start
    ledger.Ledger.create(path, {}).close()
    assert ledger.begun(path)
    assert ledger.verify(path).rounds == 0
    with pytest.raises(ledger.LedgerError, match="exists"):
        ledger.Ledger.create(path, {})
