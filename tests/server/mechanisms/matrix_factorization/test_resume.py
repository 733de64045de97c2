"""Runs with correlated noise that are killed and resumed, and what one user moves in a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
import torch

from helpers import tiny
from userdp.server.checkpoint import Checkpoint
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.matrix_factorization.noise_state import NoiseWindow
from userdp.server.strategy import PrivateStrategy
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum


def fresh(mechanism, **changes):
    """The mechanism with a window of its own."""
    return dataclasses.replace(mechanism, window=NoiseWindow(), **changes)


def stream(number, seed=0, purpose="noise"):
    return rng.Secrets(replay_seed=seed).stream(purpose, number)


USERS, ROUNDS = 6, 6
RUN = MatrixFactorization(
    users=USERS, cohort=2, rounds=ROUNDS, records_per_user=2, clip_norm=0.05, noise_multiplier=1.2
)


class KilledError(Exception):
    """The process ended here."""


def federation(folder, **options):
    return tiny.federation(folder, fresh(RUN), tiny.people(USERS), **options)


def stopped(folder, monkeypatch, where, number):
    """A run that is killed in round ``number``: before its noise, its state or its done is kept."""
    run = federation(folder)

    def maybe(call):
        def wrapped(*arguments, **keywords):
            if run.strategy.number == number:
                raise KilledError
            return call(*arguments, **keywords)

        return wrapped

    with monkeypatch.context() as patch:
        owner, name = {
            "noise": (MatrixFactorization, "store_secrets"),
            "state": (Checkpoint, "save"),
            "done": (type(run.ledger), "done"),
            "release": (PrivateStrategy, "_aggregated"),
        }[where]
        patch.setattr(owner, name, maybe(getattr(owner, name)))
        with pytest.raises(KilledError):
            run.run(ROUNDS)
    return run


def noise_of(run):
    m = RUN.expected_units
    return [m * a - b for a, b in zip(run.mechanism.means, run.mechanism.sums, strict=True)]


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = federation(tmp_path / "whole").run(ROUNDS)
    federation(tmp_path / "cut").run(4)
    again = federation(tmp_path / "cut", resume=True)
    np.testing.assert_array_equal(again.run(2), whole)


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("where", ["release", "noise", "state", "done"])
def test_a_killed_run_goes_on_with_rows_of_the_one_recurrence(tmp_path, monkeypatch, where, number):
    """Whatever was stored, M y = xi over the rows that were used, and no round is run again."""
    first = stopped(tmp_path, monkeypatch, where, number)
    second = federation(tmp_path, resume=True)
    newest = second.mechanism.window.number
    assert newest == (number if where == "done" else number - 1)
    second.run(ROUNDS - number)
    assert second.ledger.rounds_intended == ROUNDS
    numbers = {int(message.metadata.group_id) for message in second.grid.sent}
    assert numbers == set(range(number + 1, ROUNDS + 1))
    noise = [*noise_of(first), *noise_of(second)]
    used = [*range(1, len(noise_of(first)) + 1), *range(number + 1, ROUNDS + 1)]
    rows = {n: y / (1.2 * 0.05) for n, y in zip(used, noise, strict=True)}
    if where in ("noise", "state"):  # the round's release was stored nowhere: its row is drawn anew
        rows.pop(number)
    if number not in rows:
        return  # the row drawn instead is in the window only; test_noise_state checks its law
    for n in range(number + 1, ROUNDS + 1):
        row = RUN.factor.row(n)
        fresh_row = sum(weight * rows[n - d] for d, weight in enumerate(row))
        expected = rng.standard_normal(stream(n), len(rows[n]))
        np.testing.assert_allclose(fresh_row, expected, atol=1e-9)


def test_noise_that_was_not_kept_is_not_used_again(tmp_path, monkeypatch):
    """Killed before the row of round 3 was stored: what goes on is not what the lost row led to."""
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole").mkdir()
    stopped(tmp_path / "cut", monkeypatch, "noise", 3)
    second = federation(tmp_path / "cut", resume=True)
    second.run(1)
    whole = federation(tmp_path / "whole")
    whole.run(4)
    assert not np.isclose(noise_of(second)[0], noise_of(whole)[3]).any()


def test_the_noise_is_on_disk_before_the_state_and_never_in_it(tmp_path, monkeypatch):
    order = []
    save = Checkpoint.save

    def watched(self, folder):
        order.append(json.loads((folder / "noise").read_bytes().partition(b"\n")[0])["number"])
        return save(self, folder)

    monkeypatch.setattr(Checkpoint, "save", watched)
    run = federation(tmp_path)
    run.run(3)
    assert order == [1, 2, 3]
    newest = (tmp_path / "noise").read_bytes().partition(b"\n")[2][:64]
    assert newest not in (tmp_path / "state.pt").read_bytes()


@pytest.mark.parametrize("lost", ["gone", "old"])
def test_a_run_whose_noise_is_lost_does_not_go_on(tmp_path, lost):
    federation(tmp_path).run(2)
    old = (tmp_path / "noise").read_bytes()
    federation(tmp_path, resume=True).run(1)
    if lost == "gone":
        (tmp_path / "noise").unlink()
    else:
        (tmp_path / "noise").write_bytes(old)
    before = (tmp_path / "ledger.jsonl").read_bytes()
    with pytest.raises(ConfigurationError, match="is missing" if lost == "gone" else "not the one"):
        federation(tmp_path, resume=True)
    assert (tmp_path / "ledger.jsonl").read_bytes() == before


def forged(content):
    """Other rows of the same round, factor and size; the file is whole in itself."""
    head, _, stored = content.partition(b"\n")
    rows = bytes(len(stored))
    header = {**json.loads(head), "sha256": hashlib.sha256(rows).hexdigest()}
    return json.dumps(header).encode() + b"\n" + rows


@pytest.mark.parametrize("swap", ["rows", "run"])
def test_rows_that_the_checkpoint_does_not_name_are_refused(tmp_path, swap):
    """Later noise would not be of the recurrence with what was released: M y = xi is the proof."""
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
        federation(tmp_path / name, replay_seed=None).run(2)
    place, other = tmp_path / "run", tmp_path / "other" / "noise"
    kept = (place / "noise").read_bytes()
    (place / "noise").write_bytes(forged(kept) if swap == "rows" else other.read_bytes())
    (place / "noise.before").unlink()
    with pytest.raises(ConfigurationError, match="not the one that the checkpoint names"):
        federation(place, resume=True)
    (place / "noise").write_bytes(kept)
    federation(place, resume=True).run(1)


def test_a_run_that_is_killed_twice_before_its_state_is_kept_still_goes_on(tmp_path, monkeypatch):
    """The rows of the last stored release are never written over."""
    stopped(tmp_path, monkeypatch, "state", 3)
    save = Checkpoint.save

    def killed(self, folder):
        raise KilledError

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "save", killed)
            again = federation(tmp_path, resume=True)
            assert again.mechanism.window.number == 2
            with pytest.raises(KilledError):
                again.run(1)
    assert Checkpoint.save is save
    last = federation(tmp_path, resume=True)
    assert last.mechanism.window.number == 2
    last.run(1)
    assert last.ledger.rounds_intended == 6


def test_the_public_digest_of_the_rows_says_nothing_about_them(tmp_path):
    """A plain one would: from a release, each neighbour's sum gives rows that can be compared."""
    digests = set()
    for _ in range(2):
        window = NoiseWindow()
        window.row(RUN.factor, stream(1), 1, 5)
        digests.add(window.save(tmp_path, RUN.factor))
        head, _, rows = (tmp_path / "noise").read_bytes().partition(b"\n")
        salt = bytes.fromhex(json.loads(head)["salt"])
        assert len(salt) == 32
        unsalted = {k: v for k, v in json.loads(head).items() if k != "salt"}
        for known in (rows, json.dumps(unsalted).encode() + b"\n" + rows):
            assert hashlib.sha256(known).hexdigest() not in digests
    assert len(digests) == 2  # of the same rows


def test_no_release_of_a_horizon_that_has_ended():
    mechanism = fresh(RUN)
    with pytest.raises(ValueError, match="from 1 to 6"):
        mechanism.release(CohortSum(np.zeros(3)), stream(7), 7)


def encoded_distance(folder, population, without, mechanism):
    """Norm over a run's rounds of M (G - G'), with the releases of the first run given to both.

    The sums are taken with the optimiser at rest, so that both runs see one adapter: the past that
    the adversary has seen is the same, as in the proof.
    """
    sums = []
    for name, people in (("with", population), ("without", without)):
        place = folder / name
        place.mkdir(parents=True)
        run = tiny.federation(
            place,
            fresh(mechanism),
            people,
            replay_seed=3,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        )
        run.run(mechanism.rounds)
        sums.append(np.array(run.mechanism.sums))
    return float(np.linalg.norm(mechanism.factor.matrix() @ (sums[0] - sums[1]))), sums[0] - sums[1]


@pytest.mark.parametrize(
    "mechanism",
    [
        RUN,
        fresh(RUN, users=7, cohort=3.5, rounds=7),
        fresh(RUN, cohort=1.5, bands=2, rounds=5),
        fresh(RUN, objective="last"),
    ],
    ids=["whole", "ragged", "coins", "last"],
)
def test_a_user_moves_the_encoded_run_by_at_most_c_root_k(tmp_path, mechanism):
    population = tiny.people(USERS)
    bound = 0.05 * math.sqrt(mechanism.participations)
    moved, rounds = [], []
    for user in range(USERS):
        distance, sums = encoded_distance(
            tmp_path / str(user), population, population.emptied(user), mechanism
        )
        taken = np.flatnonzero(np.linalg.norm(sums, axis=1) > 0)
        assert (np.diff(taken) >= mechanism.groups).all()
        assert distance <= bound * (1 + 1e-5)
        moved.append(distance)
        rounds.append(len(taken))
    if mechanism.sampling_rate == 1:  # some groups take part once less, and some are empty
        assert mechanism.participations - 1 <= max(rounds) <= mechanism.participations
        assert max(moved) > 0.9 * 0.05 * math.sqrt(max(rounds))


def test_groups_that_come_round_too_soon_break_the_bound(tmp_path, monkeypatch):
    """The same measure, with a user in every round: the columns overlap, and it must show."""
    everyone = tiny.everyone(USERS)
    monkeypatch.setattr(MatrixFactorization, "draw", lambda *_: everyone)
    population = tiny.people(USERS)
    distance, _ = encoded_distance(
        tmp_path, population, population.emptied(0), fresh(RUN, groups_by="place")
    )
    assert distance > 1.5 * 0.05 * math.sqrt(RUN.participations)
