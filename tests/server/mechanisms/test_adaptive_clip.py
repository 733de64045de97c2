"""The clip norm follows its quantile, and update and clip bits together cost one Gaussian."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping, FedAvg
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers import tiny
from userdp.clients.training import clipping
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.strategy import NodeFailedError
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.population import Population
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.layout import to_array
from userdp.sim.runtime.in_process import InProcessGrid
from userdp.sim.tracking import metric_kinds

RULE = AdaptiveClip(quantile=0.5, learning_rate=0.2, bit_noise=2.0)
PUBLIC = {"users": 6, "cohort": 3, "records_per_user": 2, "clip_norm": 0.05, "adaptive": RULE}
USER = UserWise(noise_multiplier=1.2, **PUBLIC)
SLOT = GroupPrivacy(noise_multiplier=1.2, **PUBLIC)
MECHANISMS = pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])

# Units of known norms: log-normal quantiles around 1, so the g-quantile is exp(ppf(g)).
NORMS = np.exp(stats.norm.ppf((np.arange(400) + 0.5) / 400))


def close_to_quantile(norms, quantile):
    """Whether the last third of a run of clip norms lies around the quantile."""
    tail = np.log(norms[-len(norms) // 3 :])
    return abs(tail.mean() - stats.norm.ppf(quantile)) < 0.15


def bits_of(norms, clip_norm):
    tally = clipping.Tally.empty(norms.device)
    tally.add(norms, clip_norm)
    return tally.figures().unclipped_bits


def clip_norms(quantile, start, rounds=200):
    """(rounds,) clip norms over units of known norms, through draw, clip, bits and release."""
    mechanism = UserWise(
        users=len(NORMS),
        cohort=100,
        records_per_user=1,
        clip_norm=start,
        noise_multiplier=1.0,
        adaptive=AdaptiveClip(quantile=quantile),
    )
    rows = torch.from_numpy(np.outer(NORMS, [0.6, 0.8, 0.0]))
    seen = []
    for number in range(rounds):
        secrets = rng.Secrets(replay_seed=7)
        cohort = rows[mechanism.draw(secrets.stream("cohort", number), number).users]
        clipped = clipping.clipped_sum(cohort, mechanism.clip_norm)
        bits = bits_of(clipped.norms, mechanism.clip_norm)
        noise = secrets.stream("noise", number)
        mechanism = mechanism.after(
            mechanism.release(CohortSum(clipped.total.numpy(), unclipped_bits=bits), noise, number)
        )
        seen.append(mechanism.clip_norm)
    return np.array(seen)


@pytest.mark.parametrize("start", [0.02, 50.0], ids=["far-below", "far-above"])
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_the_clip_norm_reaches_the_quantile_of_the_norms(quantile, start):
    assert close_to_quantile(clip_norms(quantile, start), quantile)


@pytest.mark.parametrize("start", [0.5, 2.0])
def test_with_the_sign_turned_round_it_does_not(monkeypatch, start):
    """As if the indicator said clipped instead of unclipped."""
    right = AdaptiveClip.next_norm
    monkeypatch.setattr(AdaptiveClip, "next_norm", lambda self, c, b: right(self, c, 1 - b))
    norms = clip_norms(0.5, start, rounds=60)
    assert not close_to_quantile(norms, 0.5)
    assert abs(math.log(norms[-1])) > 3 * abs(math.log(start))


def flower_norms(start, rounds=40):
    """Flower's wrapper over the same norms; the replies are full models, as it expects."""
    InProcessGrid(ClientApp(), 1)  # sets the sender of the messages
    wrapper = DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), noise_multiplier=1e-3, num_sampled_clients=40, initial_clipping_norm=start,
        clipped_count_stddev=0.1,
    )  # fmt: skip
    zero = ArrayRecord({"w": to_array(np.zeros(3))})
    for _ in range(rounds):
        wrapper.configure_train(1, zero, ConfigRecord(), _NoNodes(ClientApp(), 1))
        wrapper.current_arrays = zero
        wrapper.aggregate_train(1, [reply(norm) for norm in NORMS[::10]])
    return wrapper.clipping_norm


class _NoNodes(InProcessGrid):
    def get_node_ids(self):
        return [2, 3]


def reply(norm):
    request = Message(RecordDict(), dst_node_id=2, message_type="train")
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": to_array(norm * np.array([0.6, 0.8, 0.0]))}),
            "metrics": MetricRecord({"num-examples": 1.0}),
        }
    )
    return Message(content, reply_to=request)


@pytest.mark.parametrize("start", [0.5, 2.0])
def test_flowers_own_wrapper_moves_away_from_the_same_quantile(start):
    """A record of the contrast (flwr 1.41): the distance from the median 1 grows, ours shrinks."""
    assert abs(math.log(flower_norms(start))) > 2 * abs(math.log(start))
    assert abs(math.log(clip_norms(0.5, start, rounds=40)[-1])) < abs(math.log(start))


@pytest.mark.parametrize(("z", "split"), [(1.0, 1.012435), (1.266, 1.291521)])
def test_the_published_split_of_the_noise(z, split):
    rule = AdaptiveClip()
    assert rule.bit_std(64) == 3.2
    assert rule.update_multiplier(z, 64) == pytest.approx(split, abs=1e-6)
    assert rule.update_multiplier(z, 64) == (AdaptiveClip(bit_noise=3.2).update_multiplier(z, 1e9))


@given(st.floats(1e-3, 1e3), st.floats(1.001, 1e3), st.floats(1, 1e5))
def test_the_queries_combine_to_z(z, room, m):
    rule = AdaptiveClip(bit_noise=room * z / 2)
    split = rule.update_multiplier(z, m)
    assert split >= z
    assert split**-2 + (2 * room * z / 2) ** -2 == pytest.approx(z**-2, rel=1e-9)


def test_bits_that_cost_more_than_the_round_are_refused_with_the_mend():
    for z in (2.0, 6.4, 50.0):
        with pytest.raises(ConfigurationError, match=r"strategy.clip_bit_noise=1:.*clip_bit_noise"):
            AdaptiveClip(bit_noise=1.0).update_multiplier(z, 64)
    with pytest.raises(ConfigurationError, match=r"clip_bit_noise=0\.3"):
        dataclasses.replace(USER, adaptive=AdaptiveClip(bit_noise=0.3))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"quantile": value} for value in (0.0, 1.0, -1.0, math.nan)),
        *({"learning_rate": value} for value in (0.0, -0.2, math.inf, math.nan)),
        *({"bit_noise": value} for value in (0.0, -1.0, math.inf, math.nan)),
    ],
    ids=str,
)
def test_what_is_no_rule_is_refused(wrong):
    [name] = wrong
    with pytest.raises(ConfigurationError, match=f"strategy.clip_{name}="):
        AdaptiveClip(**wrong)


# --- the clip bits -------------------------------------------------------------------------------


@MECHANISMS
@pytest.mark.parametrize("nodes", [1, 4])
def test_the_bits_of_the_nodes_add_up_and_are_sent_only_when_asked_for(tmp_path, mechanism, nodes):
    replies = []
    options = {
        "nodes": nodes,
        "cohort": tiny.everyone(6, 2 if mechanism is SLOT else None),
        "train": lambda host, message: replies.append(host.train(message)) or replies[-1],
    }
    run = tiny.federation(tmp_path, mechanism, tiny.people(6), **options)
    run.run()
    sums = [reply.content["unclipped_bits"]["sum"] for reply in replies]
    assert sum(sums) == run.mechanism.bits[0]
    assert "unclipped_bits" not in metric_kinds.METRICS
    fixed = dataclasses.replace(mechanism, adaptive=None)
    (tmp_path / "fixed").mkdir()
    tiny.federation(tmp_path / "fixed", fixed, tiny.people(6), **options).run()
    assert "unclipped_bits" not in replies[-1].content


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_reply_that_does_not_fit_the_rule_is_refused(tmp_path, adaptive):
    def contrary(host, message):
        reply = host.train(message)
        if adaptive:
            del reply.content["unclipped_bits"]
        else:
            reply.content["unclipped_bits"] = ConfigRecord({"sum": 1.0})
        return reply

    mechanism = USER if adaptive else dataclasses.replace(USER, adaptive=None)
    run = tiny.federation(tmp_path, mechanism, tiny.people(6), train=contrary)
    with pytest.raises(NodeFailedError, match=f"count_unclipped={adaptive}"):
        run.run(3)


# --- the joint release ---------------------------------------------------------------------------


@MECHANISMS
def test_noise_on_update_and_bits_is_what_the_queries_record_and_no_other(mechanism):
    mechanism = dataclasses.replace(mechanism, adaptive=AdaptiveClip(bit_noise=0.75))
    assert mechanism.update_multiplier > 1.5 * mechanism.noise_multiplier
    update_query, bits_query = mechanism.queries()
    m, rounds = mechanism.expected_units, 3000
    releases = [
        mechanism.release(CohortSum(np.zeros(2), unclipped_bits=1.0), rng.OsEntropy(), 1)
        for _ in range(rounds)
    ]
    means = m * np.concatenate([release.mean for release in releases])
    bits = m * (np.array([release.unclipped_fraction for release in releases]) - 0.5) - 1.0
    for noise, query in ((means, update_query), (bits, bits_query)):
        assert stats.kstest(noise, "norm", args=(0, query.noise_std)).pvalue > 1e-6
        for wrong in (2 / 3, 3 / 2):
            assert stats.kstest(noise, "norm", args=(0, wrong * query.noise_std)).pvalue < 1e-6
    assert abs(np.corrcoef(means[::2], bits)[0, 1]) < 5 / math.sqrt(rounds)


@MECHANISMS
def test_each_round_has_one_clip_norm_one_event_and_queries_that_combine_to_z(tmp_path, mechanism):
    run = tiny.federation(tmp_path, mechanism, tiny.people(6), cohort=everyone(mechanism))
    run.run(5)
    intents = [entry for entry in run.entries() if entry["kind"] == "intent"]
    clip_norms = [message.content["contract"]["clip_norm"] for message in run.grid.sent]
    noised = []
    for intent, clip_norm, total, mean in zip(
        intents, clip_norms, run.mechanism.sums, run.mechanism.means, strict=True
    ):
        assert intent["event"] == mechanism.ledger_event()
        of_update, of_bits = intent["queries"]
        assert of_update["sensitivity"] == clip_norm
        assert of_bits["sensitivity"] == 0.5
        combined = sum(
            (query["sensitivity"] / query["noise_std"]) ** 2 for query in (of_update, of_bits)
        )
        assert combined**-0.5 == pytest.approx(1.2, rel=1e-9)
        noised.append((mechanism.expected_units * mean - total) / of_update["noise_std"])
    assert len(set(clip_norms)) == 5
    assert stats.kstest(np.concatenate(noised), "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        scaled = np.concatenate(noised) * wrong
        assert stats.kstest(scaled, "norm").pvalue < 1e-6
    rounds = zip(clip_norms, clip_norms[1:], run.mechanism.releases, strict=False)
    for norm, following, release in rounds:
        wanted = norm * math.exp(-0.2 * (release.unclipped_fraction - 0.5))
        assert following == pytest.approx(wanted, rel=1e-12)


def everyone(mechanism):
    return tiny.everyone(6, 2 if mechanism is SLOT else None)


@pytest.mark.parametrize("size", [0, 1, 6])
def test_the_fraction_is_over_the_public_m_whatever_the_cohort(tmp_path, size):
    run = tiny.federation(tmp_path, USER, tiny.people(6), cohort=tiny.everyone(size))
    run.run()
    noise = rng.standard_normal(rng.Secrets(replay_seed=0).stream("noise", 1), len(run.total) + 1)
    [release] = run.mechanism.releases
    wanted = 0.5 + (run.mechanism.bits[0] + 2.0 * noise[-1]) / 3
    assert release.unclipped_fraction == pytest.approx(wanted, rel=1e-12)
    assert abs(run.mechanism.bits[0]) <= size / 2


@pytest.mark.parametrize("clip_norm", [1e-6, 0.02, 1e6], ids=["clipped", "mixed", "unclipped"])
@MECHANISMS
def test_a_user_moves_the_joint_query_by_at_most_the_hits_over_z(tmp_path, mechanism, clip_norm):
    """In units of each query's noise; one text repeated, so that a user's slots point one way."""
    mechanism = dataclasses.replace(mechanism, clip_norm=clip_norm)
    shouting = Population.of({f"u{i}": [[i + 1] * 9] * 2 for i in range(6)})
    whole = joint(tmp_path / "whole", mechanism, shouting)
    hits = mechanism.group_size
    for user in (0, 3):
        moved = joint(tmp_path / str(user), mechanism, shouting.emptied(user)) - whole
        assert np.linalg.norm(moved) <= hits / 1.2 * (1 + 1e-5)
        if clip_norm == 1e-6:
            assert np.linalg.norm(moved) > 0.99 * hits / 1.2


def joint(folder, mechanism, population):
    """(D + 1,) sums before noise of one round, each query over its noise."""
    folder.mkdir()
    slots = None if mechanism.unit == "user" else 2
    run = tiny.federation(folder, mechanism, population, cohort=tiny.everyone(6, slots))
    run.run()
    of_update, of_bits = mechanism.queries()
    return np.append(run.total / of_update.noise_std, run.mechanism.bits[0] / of_bits.noise_std)


@MECHANISMS
@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_goes_on_at_the_clip_norm_it_had_reached(tmp_path, mechanism, stop):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = tiny.federation(tmp_path / "whole", mechanism, tiny.people(6), nodes=2)
    adapter = whole.run(5)
    first = tiny.federation(tmp_path / "parts", mechanism, tiny.people(6), nodes=2)
    first.run(stop)
    rest = tiny.federation(tmp_path / "parts", mechanism, tiny.people(6), nodes=2, resume=True)
    np.testing.assert_array_equal(rest.run(5 - stop), adapter)
    assert rest.mechanism.clip_norm == whole.mechanism.clip_norm != mechanism.clip_norm


def test_the_figures_of_a_round_are_those_of_the_clip_norm_it_used(tmp_path):
    logged = []
    run = tiny.federation(tmp_path, USER, tiny.people(6))
    run.strategy.tracker.log = lambda _, figures, **__: logged.append(figures)
    run.run(2)
    assert logged[0]["clip_norm"] == 0.05
    assert logged[1]["clip_norm"] != 0.05
    for figures, release in zip(logged, run.mechanism.releases, strict=True):
        assert figures["noise_std"] == pytest.approx(USER.update_multiplier * figures["clip_norm"])
        assert figures["unclipped_fraction"] == release.unclipped_fraction
    assert {metric_kinds.kind(key) for key in ("clip_norm", "unclipped_fraction")} == {
        metric_kinds.Kind.RELEASED
    }
