"""What a node sends says nothing about its sum; all together say the sum, exactly."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers import masked, tiny
from userdp.clients import node_keys
from userdp.clients.answered_rounds import AnsweredError
from userdp.clients.app import Host
from userdp.clients.masked_sums import MaskedSums
from userdp.clients.training.memory import EngineSettings
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol import messages
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.fixed_point import FIGURES, FixedPoint
from userdp.sim.runtime.in_process import InProcessGrid

GRID, RUN, CONTEXT = 2.0**-40, "ab" * 32, bytes(32)
MECHANISM = UserWise(
    users=6,
    cohort=3,
    records_per_user=2,
    clip_norm=0.05,
    noise_multiplier=1.2,
    adaptive=AdaptiveClip(bit_noise=2.4),
)
CONTRACT = tiny.contract(MECHANISM, grid=GRID, secure_sum=RUN, round=1)
NUMBER = itertools.count(1)  # rounds, each used once


def steps_of(values, bits=0.0):
    return CohortSum(np.array(values) * GRID, dict.fromkeys(FIGURES, 3.0), bits)


def sent(nodes, cohort, partition, masks, context=CONTEXT, **changes):
    contract = dataclasses.replace(CONTRACT, **changes)
    return masks.masked(cohort, contract, masked.place(partition, nodes), context)


def fixed(size, nodes):
    return FixedPoint(size=size, grid=GRID, nodes=nodes, count_unclipped=True)


@pytest.fixture(scope="module")
def rosters(tmp_path_factory):
    """Federations of 2 to 7 nodes; answered rounds are kept in memory, for speed."""
    made = {}
    for nodes in range(2, 8):
        folder = tmp_path_factory.mktemp("keys") / "keys"
        node_keys.make(folder, nodes)
        made[nodes] = MaskedSums.of(folder, kept=False)
    return made


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 7), st.integers(1, 30), st.randoms(use_true_random=False))
def test_all_nodes_together_say_the_exact_sum(rosters, nodes, size, chance):
    number, most = next(NUMBER), 2**52 // nodes
    values = [[chance.randint(-most, most) for _ in range(size)] for _ in range(nodes)]
    vectors = [
        sent(nodes, steps_of(v, 0.5), i, rosters[nodes], round=number) for i, v in enumerate(values)
    ]
    total = fixed(size, nodes).decoded(sum(vectors, np.zeros_like(vectors[0])))
    assert (total.total / GRID).tolist() == [sum(column) for column in zip(*values, strict=True)]
    assert total.unclipped_bits == nodes / 2
    assert total.figures == dict.fromkeys(FIGURES, 3.0 * nodes)


def test_nodes_need_nothing_but_their_own_key_and_the_roster(tmp_path):
    """As in a deployment: keys are made at home, and only public ones are given away."""
    homes = [tmp_path / name for name in ("a", "b", "c")]
    public = [node_keys.make_private(home, place) for place, home in enumerate(homes)]
    rosters = {node_keys.write_roster(home, public).digest for home in homes}
    assert len(rosters) == 1
    assert all(len(list(home.iterdir())) == 2 for home in homes)
    vectors = [
        sent(3, steps_of([10**place]), place, MaskedSums.of(home), round=1)
        for place, home in enumerate(homes)
    ]
    assert fixed(1, 3).decoded(sum(vectors, np.zeros_like(vectors[0]))).total / GRID == [111]
    with pytest.raises(ConfigurationError, match=r"node-0.key is there"):
        node_keys.make_private(homes[0], 0)


@pytest.mark.parametrize("nodes", range(2, 8))
def test_the_sum_of_all_but_one_says_nothing(rosters, nodes):
    number = next(NUMBER)
    vectors = [
        sent(nodes, steps_of([1] * 400), i, rosters[nodes], round=number) for i in range(nodes)
    ]
    for left_out in range(nodes):
        rest = sum((v for i, v in enumerate(vectors) if i != left_out), np.zeros_like(vectors[0]))
        assert uniform(rest) > 1e-9
        with pytest.raises(ValueError, match="do not cancel"):
            fixed(400, nodes).decoded(rest)


def uniform(vector):
    """p-value of uniform entries modulo 2^64, by their values and by their bytes."""
    of_values = stats.kstest(vector / 2.0**64, "uniform").pvalue
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    return min(of_values, stats.chisquare(counts).pvalue)


SUMS = {
    "nothing": [0] * 4000,
    "the largest": [2**52 // 3] * 4000,
    "one unit": [-(2**30)] + [0] * 3999,
}


@pytest.mark.parametrize("values", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("partition", [0, 1, 2])
def test_what_a_node_sends_is_uniform_whatever_its_sum(rosters, values, partition):
    """All of it: coordinates, clip bits and figures."""
    cohort = steps_of(values)
    vector = sent(3, cohort, partition, rosters[3], round=next(NUMBER))
    assert uniform(vector) > 1e-9
    assert uniform(fixed(4000, 3).encoded(cohort)) < 1e-9
    for narrower in (vector // np.uint64(2), vector >> np.uint64(8), vector & np.uint64(2**63 - 1)):
        assert uniform(narrower) < 1e-9


def test_no_entry_of_a_reply_is_left_in_clear(rosters):
    """Over many rounds each entry is uniform, that of a clip bit and those of figures too."""
    rounds = np.stack(
        [sent(3, steps_of([5, 6], 0.5), 1, rosters[3], round=next(NUMBER)) for _ in range(400)]
    )
    assert rounds.shape == (400, 2 + 1 + len(FIGURES))
    for column in rounds.T:
        assert stats.kstest(column / 2.0**64, "uniform").pvalue > 1e-9
        assert len(np.unique(column)) == 400


def test_two_sums_are_sent_in_the_same_distribution(rosters):
    first = sent(3, steps_of(SUMS["nothing"]), 0, rosters[3], round=next(NUMBER))
    second = sent(3, steps_of(SUMS["the largest"]), 0, rosters[3], round=next(NUMBER))
    assert stats.ks_2samp(first / 2.0**64, second / 2.0**64).pvalue > 1e-9
    assert stats.ks_2samp(first / 2.0**64, second / 2.0**65).pvalue < 1e-9


def test_no_mask_serves_two_rounds_two_runs_or_two_nodes(rosters):
    """A mask alone is what a node sends for the sum zero; differences of masks are uniform."""
    nothing = steps_of([0] * 2000)
    number = next(NUMBER)
    masks = [
        sent(4, nothing, 0, rosters[4], round=number),
        sent(4, nothing, 1, rosters[4], round=number),
        sent(4, nothing, 0, rosters[4], round=next(NUMBER)),
        sent(4, nothing, 0, rosters[4], round=number, secure_sum="cd" * 32),
    ]
    for one, other in itertools.combinations(masks, 2):
        assert uniform(one - other) > 1e-9
        assert uniform(one + other) > 1e-9


def test_nodes_that_were_told_different_things_send_masks_that_do_not_cancel(rosters):
    number = next(NUMBER)
    zero = steps_of([0] * 50)
    vectors = [
        sent(2, zero, 0, rosters[2], round=number),
        sent(2, zero, 1, rosters[2], context=b"\x01" * 32, round=number),
    ]
    with pytest.raises(ValueError, match="do not cancel"):
        fixed(50, 2).decoded(vectors[0] + vectors[1])


def test_a_node_answers_no_round_twice_and_no_earlier_one(rosters):
    first, second = next(NUMBER), next(NUMBER)
    zero = steps_of([0])
    sent(2, zero, 0, rosters[2], round=second)
    for number in (first, second):
        with pytest.raises(AnsweredError):
            sent(2, zero, 0, rosters[2], round=number)
        with pytest.raises(AnsweredError):
            rosters[2].check(dataclasses.replace(CONTRACT, round=number), masked.place(0, 2))


def test_a_round_is_noted_before_its_vector_is_masked(rosters, monkeypatch):
    """An error while masks are added leaves the round answered: nothing of it may be sent again."""
    from userdp.sim.protocol import secure_sum

    number = next(NUMBER)
    with monkeypatch.context() as patch:
        patch.setattr(secure_sum, "add_mask", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sent(2, steps_of([0]), 0, rosters[2], round=number)
    with pytest.raises(AnsweredError):
        sent(2, steps_of([0]), 0, rosters[2], round=number)


@pytest.mark.parametrize(
    "changes",
    [{"secure_sum": ""}, {"secure_sum": "my run"}, {"grid": 0.0}, {"keep_rows": True}],
    ids=["no masks", "no run", "no grid", "rows"],
)
def test_a_node_with_keys_refuses_to_send_a_sum_in_clear(rosters, changes):
    contract = dataclasses.replace(CONTRACT, round=next(NUMBER), **changes)
    with pytest.raises(ConfigurationError, match=r"runtime.secure_sum=true"):
        rosters[2].check(contract, masked.place(0, 2))


def test_a_node_of_a_federation_of_another_size_is_refused_before_a_round(rosters):
    with pytest.raises(ConfigurationError, match="roster has 3 nodes, the federation 4"):
        rosters[3].check_place(masked.place(0, 4))


def request(**changes):
    model = tiny.language_model()
    contract = dataclasses.replace(CONTRACT, round=next(NUMBER), **changes)
    InProcessGrid(ClientApp(), 1)  # gives Flower's messages a sender
    arrays = model.layout.to_arrays(model.initial.numpy())
    message = messages.train_message(2, arrays, contract, tiny.everyone(2))
    message.metadata.__dict__["_message_id"] = "1"
    return message


def host(masks):
    engine = EngineSettings(max_tokens=128)
    return Host(tiny.language_model(), tiny.people(6), engine, masked_sums=masks)


def test_a_reply_holds_one_masked_vector_and_nothing_else(rosters):
    message = request()
    message.content.config_records["assignment"]["users"] = [0, 2]
    reply = host(rosters[2]).train(message, masked.place(0, 2))
    assert list(reply.content) == ["masked"]
    assert list(reply.content["masked"]) == ["sum"]
    vector = reply.content["masked"]["sum"].numpy()
    assert vector.dtype == np.uint64
    assert uniform(vector) > 1e-9


def test_a_node_without_keys_refuses_a_round_of_masked_sums():
    with pytest.raises(ConfigurationError, match=r"set runtime.secure_sum=true and runtime.keys"):
        host(None).train(request(), masked.place(0, 2))


def test_a_node_that_masks_needs_its_place(rosters):
    with pytest.raises(ConfigurationError, match="place"):
        host(rosters[2]).train(request())


def test_no_record_is_read_for_a_round_that_was_answered(rosters, monkeypatch):
    from userdp.clients.batching import unit_records

    message = request()
    message.content.config_records["assignment"]["users"] = [0]
    host(rosters[2]).train(message, masked.place(0, 2))
    monkeypatch.setattr(unit_records, "fetch", lambda *_: pytest.fail("a record was read"))
    with pytest.raises(AnsweredError):
        host(rosters[2]).train(message, masked.place(0, 2))


def test_a_node_introduces_itself_with_its_roster(rosters):
    place = host(rosters[2]).place(tiny.Context(0, 2, {}, tiny.RecordDict(), {}))
    assert place.roster == rosters[2].roster.digest
    assert host(None).place(tiny.Context(0, 2, {}, tiny.RecordDict(), {})).roster == ""
