"""Rounds with secure sums: every node is asked, the sum is exact, and a partial one is no sum."""

from __future__ import annotations

import copy
import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from helpers import masked, tiny
from userdp.clients.app import Host
from userdp.server import secure_sum
from userdp.server.ledger.ledger import verify
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.strategy import NodeFailedError
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol import messages
from userdp.sim.protocol.fixed_point import FIGURES

NODES, CLIP = 3, 0.05
PUBLIC = {"users": 6, "cohort": 3, "records_per_user": 2, "clip_norm": CLIP}
PRIVATE = {**PUBLIC, "noise_multiplier": 1.2}
MECHANISMS = {
    "user": UserWise(**PRIVATE),
    "slot": GroupPrivacy(**PRIVATE),
    "adaptive": UserWise(adaptive=AdaptiveClip(bit_noise=2.4), **PRIVATE),
    "adaptive slot": GroupPrivacy(adaptive=AdaptiveClip(bit_noise=2.4), **PRIVATE),
    "capped": UserWise(cohort_max=2, **PRIVATE),
    "correlated": MatrixFactorization(rounds=10, **PRIVATE),
    "discrete": UserWise(noise="discrete", **PRIVATE),
}


@pytest.fixture
def masks(tmp_path):
    return masked.keys(tmp_path / "keys", NODES)


def on_the_grid(monkeypatch):
    """Unmasked rounds on the grid of masked ones."""
    contract = Mechanism.contract

    def rounded(self, number, work):
        made = contract(self, number, work)
        return dataclasses.replace(made, grid=secure_sum.grid_of(self, made.grid, made.clip_norm))

    monkeypatch.setattr(Mechanism, "contract", rounded)


def folders(tmp_path):
    for name in ("plain", "masked"):
        (tmp_path / name).mkdir()
        yield tmp_path / name


@pytest.mark.parametrize("name", MECHANISMS)
def test_masked_rounds_equal_unmasked_ones_on_the_same_grid_bit_by_bit(
    tmp_path, masks, monkeypatch, name
):
    plain_folder, masked_folder = folders(tmp_path)
    mechanism, people = copy.deepcopy(MECHANISMS[name]), tiny.people(6)
    secret = masked.federation(masked_folder, copy.deepcopy(mechanism), people, masks, nodes=NODES)
    adapter = secret.run(4)
    on_the_grid(monkeypatch)
    plain = tiny.federation(plain_folder, mechanism, people, nodes=NODES)
    assert plain.run(4).tolist() == adapter.tolist()
    assert np.array_equal(plain.mechanism.sums, secret.mechanism.sums)
    assert plain.mechanism.bits == secret.mechanism.bits
    assert np.abs(secret.mechanism.sums).max() > 0
    skipped = ("hash", "previous", "created", "release")
    for one, other in zip(plain.entries(), secret.entries(), strict=True):
        assert {k: v for k, v in one.items() if k not in skipped} == {
            k: v for k, v in other.items() if k not in skipped
        }


@pytest.mark.parametrize("name", [n for n in MECHANISMS if n != "discrete"])
def test_a_sum_differs_from_the_unrounded_one_by_less_than_one_step_a_unit(tmp_path, masks, name):
    plain_folder, masked_folder = folders(tmp_path)
    mechanism, people = copy.deepcopy(MECHANISMS[name]), tiny.people(6)
    secret = masked.federation(masked_folder, copy.deepcopy(mechanism), people, masks, nodes=NODES)
    secret.run(1)
    plain = tiny.federation(plain_folder, mechanism, people, nodes=NODES)
    plain.run(1)
    most = 6 * mechanism.group_size
    grid = secure_sum.grid_of(mechanism, 0.0, CLIP)
    assert grid <= most * 2.0**-51 * CLIP  # as docs/secure_sums.md says
    gap = np.abs(plain.total - secret.total)
    assert gap.max() < most * (grid + 2.0**-52 * CLIP)  # and the rounding of the unmasked sum
    assert all(Fraction(x) % Fraction(grid) == 0 for x in secret.total.tolist())


def test_every_node_is_asked_in_every_round_also_where_nobody_is_sampled(tmp_path, masks):
    run = masked.federation(
        tmp_path, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, cohort=tiny.everyone(0)
    )
    run.run(2)
    asked = [(m.metadata.group_id, m.metadata.dst_node_id) for m in run.grid.sent]
    assert sorted(asked) == [(r, node) for r in "12" for node in (2, 3, 4)]
    assert all(np.abs(total).max() == 0 for total in run.mechanism.sums)
    assert run.entries()[-1]["kind"] == "done"


def test_figures_add_up_to_those_of_an_unmasked_round(tmp_path, masks):
    plain_folder, masked_folder = folders(tmp_path)
    kept = []
    for run in (
        tiny.federation(plain_folder, MECHANISMS["user"], tiny.people(6), nodes=NODES),
        masked.federation(masked_folder, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES),
    ):
        seen = run.strategy._simulation_only
        run.strategy._simulation_only = lambda sums, seen=seen: (
            kept.append(dict(sums)) or seen(sums)
        )
        run.run(1)
    assert set(kept[0]) == set(FIGURES)
    for name in FIGURES:
        assert kept[1][name] == pytest.approx(kept[0][name], abs=NODES * 2.0**-20)


def failing(masks, node, number, error=ValueError):
    honest = masked.training(masks, NODES)

    def train(host: Host, message: Message) -> Message:
        if message.metadata.dst_node_id == node and message.metadata.group_id == number:
            raise error("a record")
        return honest(host, message)

    return train


@pytest.mark.parametrize("node", [2, 3, 4])
def test_a_missing_node_ends_the_round_without_a_release_and_the_run_goes_on(tmp_path, masks, node):
    folder = tmp_path / "run"
    folder.mkdir()
    train = failing(masks, node, "2")
    run = masked.federation(
        folder, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, train=train
    )
    with pytest.raises(NodeFailedError, match=r"Round 2: \d node\(s\) failed twice; nothing was"):
        run.run(3)
    assert len(run.mechanism.means) == 1
    account = verify(folder / "ledger.jsonl")
    assert (account.rounds, account.unfinished) == (2, (2,))
    again = masked.federation(
        folder, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, resume=True
    )
    assert again.ledger.run == run.ledger.run
    again.run(1)
    assert [m.metadata.group_id for m in again.grid.sent] == ["3"] * NODES
    assert verify(folder / "ledger.jsonl").unfinished == (2,)


def test_a_node_that_failed_before_it_answered_is_asked_once_more_to_the_same_sum(tmp_path, masks):
    left, honest = [1], masked.training(masks, NODES)

    def train(host, message):
        if left:
            left.pop()
            raise ValueError("a record")
        return honest(host, message)

    plain_folder, masked_folder = folders(tmp_path)
    secret = masked.federation(
        masked_folder, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, train=train
    )
    secret.run(1)
    assert len(secret.grid.sent) == NODES + 1
    plain = tiny.federation(plain_folder, MECHANISMS["user"], tiny.people(6), nodes=NODES)
    plain.run(1)
    np.testing.assert_allclose(secret.total, plain.total, atol=1e-14)


def test_a_reply_that_is_lost_after_its_node_answered_is_not_sent_again(tmp_path, masks):
    honest, lost = masked.training(masks, NODES), []

    def train(host, message):
        reply = honest(host, message)
        if message.metadata.dst_node_id == 3:
            lost.append(reply)
            raise ConnectionError
        return reply

    run = masked.federation(
        tmp_path, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, train=train
    )
    with pytest.raises(NodeFailedError, match="failed twice"):
        run.run(1)
    assert len(lost) == 1  # the second request was refused before it was answered


def test_a_round_that_is_asked_again_under_an_old_number_is_refused_by_the_nodes(tmp_path, masks):
    """A ledger that was rolled back to an earlier copy repeats a round, with other coins."""
    folder = tmp_path / "run"
    folder.mkdir()
    run = masked.federation(folder, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES)
    with run.ledger:
        lines = (folder / "ledger.jsonl").read_bytes()
        run.run(1)
    (folder / "ledger.jsonl").write_bytes(lines)
    (folder / "state.pt").unlink()
    again = masked.federation(
        folder, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, resume=True
    )
    with pytest.raises(NodeFailedError, match=r"Round 1: 3 node\(s\) failed twice"):
        again.run(1)


def test_a_node_of_another_roster_spoils_the_sum_and_nothing_is_released(tmp_path, masks):
    others = masked.keys(tmp_path / "others", NODES)
    honest, foreign = masked.training(masks, NODES), masked.training(others, NODES)

    def train(host, message):
        return (foreign if message.metadata.dst_node_id == 4 else honest)(host, message)

    run = masked.federation(
        tmp_path, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, train=train
    )
    with pytest.raises(NodeFailedError, match=r"sum over all nodes is refused: .*do not cancel"):
        run.run(1)
    assert run.mechanism.means == []


def test_nodes_that_get_different_adapters_spoil_the_sum(tmp_path, masks):
    """Pasquini et al., CCS 2022: a server that gives one node another model isolates its sum."""
    honest = masked.training(masks, NODES)

    def train(host, message):
        if message.metadata.dst_node_id == 3:
            vector = host.model.layout.to_vector(message.content["adapter"]).copy()
            vector[0] += 1
            message.content["adapter"] = host.model.layout.to_arrays(vector)
        return honest(host, message)

    run = masked.federation(
        tmp_path, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, train=train
    )
    with pytest.raises(NodeFailedError, match="do not cancel"):
        run.run(1)


def lying(masks, change):
    """A node that masks another sum than its own."""
    honest = masked.training(masks, NODES)

    def train(host, message):
        if message.metadata.dst_node_id != 3:
            return honest(host, message)
        with pytest.MonkeyPatch.context() as patch:
            encoded = secure_sum.FixedPoint.encoded
            patch.setattr(
                secure_sum.FixedPoint, "encoded", lambda self, cohort: change(encoded(self, cohort))
            )
            return honest(host, message)

    return train


def entry(place, value):
    def change(vector):
        vector[place] = value
        return vector

    return change


SIZE = tiny.language_model().layout.size
COUNT = {name: SIZE + 1 + place for place, name in enumerate(FIGURES)}
LIES = {
    "is longer than 6 units of clip norm 0.05": entry(slice(6, 9), 2**51),
    "its clip bits are not those of 6 units": entry(SIZE, 14),
    "its figure cohort_size is out of range": entry(COUNT["cohort_size"], 2**23),
    "its figure failed_units is out of range": entry(COUNT["failed_units"], 2**64 - 2**30),
    "the masks of the nodes do not cancel": entry(7, 2**60),
}


@pytest.mark.parametrize("reason", LIES)
def test_a_sum_beyond_what_all_units_can_add_up_to_is_refused(tmp_path, masks, reason):
    run = masked.federation(
        tmp_path,
        MECHANISMS["adaptive"],
        tiny.people(6),
        masks,
        nodes=NODES,
        cohort=tiny.everyone(6),
        train=lying(masks, LIES[reason]),
    )
    with pytest.raises(NodeFailedError, match=f"sum over all nodes is refused: .*{reason}"):
        run.run(1)
    assert run.mechanism.means == []
    assert verify(tmp_path / "ledger.jsonl").unfinished == (1,)


def test_an_honest_sum_at_the_limit_passes(tmp_path, masks):
    """Every unit at norm C in one direction, bits and counts at their ends."""
    run = masked.federation(
        tmp_path,
        UserWise(**{**PRIVATE, "clip_norm": 1e-6}, adaptive=AdaptiveClip(bit_noise=2.4)),
        tiny.people(6),
        masks,
        nodes=NODES,
        cohort=tiny.everyone(6),
    )
    run.run(1)
    assert run.mechanism.bits == [-3.0]
    assert np.linalg.norm(run.total) <= 6e-6


def reply_of(record):
    return lambda reply: Message(RecordDict(record), reply_to=reply)


def masked_array(array):
    return {"masked": ArrayRecord({"sum": Array(array)})}


WRONG = {
    "in clear": lambda vector, layout: {
        "clipped_sum": layout.to_arrays(np.zeros(layout.size)),
    },
    "float": lambda vector, layout: masked_array(vector.astype(np.float64)),
    "signed": lambda vector, layout: masked_array(vector.view(np.int64)),
    "short": lambda vector, layout: masked_array(vector[:-1]),
    "two rows": lambda vector, layout: masked_array(vector[None]),
    "more": lambda vector, layout: {
        **masked_array(vector),
        "clipped_sum": layout.to_arrays(np.zeros(layout.size)),
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_a_reply_of_another_form_is_refused_with_its_node(tmp_path, masks, name):
    honest = masked.training(masks, NODES)

    def train(host, message):
        reply = honest(host, message)
        if message.metadata.dst_node_id == 3:
            vector = reply.content["masked"]["sum"].numpy()
            record = WRONG[name](vector, host.model.layout)
            return Message(RecordDict(record), reply_to=message)
        return reply

    run = masked.federation(
        tmp_path, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES, train=train
    )
    with pytest.raises(NodeFailedError, match=r"reply of node 3 is refused: .*not a masked sum"):
        run.run(1)


def test_a_partial_sum_is_never_read(tmp_path, masks):
    """Whatever the strategy asks of it: the aggregation knows how many nodes there are."""
    run = masked.federation(tmp_path, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES)
    run.strategy.drop_failed_nodes = True
    run.grid._app = tiny.ClientApp()  # answers nothing
    with pytest.raises(NodeFailedError, match=r"refused: 3 node\(s\) are missing"):
        run.run(1)


@pytest.mark.parametrize(
    ("mechanism", "reason"),
    [
        (Concentrated(tau=0.02, min_weight=4.0, failure_probability=1e-6, **PRIVATE), "every unit"),
        (NonPrivate(users=6, cohort=3, records_per_user=2), "finite clip norm"),
        (UserWise(**{**PRIVATE, "users": 10**12, "cohort": 10**3}), "declare fewer users"),
    ],
    ids=["rows", "no clip norm", "too many users"],
)
def test_a_mechanism_whose_sums_cannot_be_masked_is_refused_by_name(mechanism, reason):
    with pytest.raises(ConfigurationError, match=f"runtime.secure_sum=true.*{reason}"):
        secure_sum.check(mechanism)


def test_the_mechanisms_own_grid_wins():
    mechanism = MECHANISMS["discrete"]
    contract = mechanism.contract(1, tiny.WORK)
    assert secure_sum.contract_of(contract, mechanism, "ab" * 32).grid == mechanism.grid > 0


def test_what_the_server_asks_holds_the_run_and_the_grid(tmp_path, masks):
    run = masked.federation(tmp_path, MECHANISMS["user"], tiny.people(6), masks, nodes=NODES)
    run.run(2)
    contracts = [messages.read_train(message)[1] for message in run.grid.sent]
    assert {contract.secure_sum for contract in contracts} == {run.entries()[0]["hash"]}
    assert {contract.grid for contract in contracts} == {
        secure_sum.grid_of(MECHANISMS["user"], 0.0, CLIP)
    }
