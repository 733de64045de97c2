"""A node's wrong answer stops the run before the release; an honest one at the limit passes."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from helpers import tiny
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training.clipping import clipped_sum
from userdp.server.ledger.ledger import verify
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.reply_check import Asked, ReplyRefusedError, checked
from userdp.server.strategy import NodeFailedError
from userdp.sim.data.population import Population
from userdp.sim.protocol import messages
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.layout import Layout

CLIP, UNITS = 0.05, 3  # of a node: six users, two nodes
PUBLIC = {"users": 6, "cohort": 3, "records_per_user": 2, "clip_norm": CLIP}
PRIVATE = {**PUBLIC, "noise_multiplier": 1.2}
ADAPTIVE = UserWise(adaptive=AdaptiveClip(bit_noise=2.4), **PRIVATE)
MECHANISMS = {
    "user": UserWise(**PRIVATE),
    "slot": GroupPrivacy(**PRIVATE),
    "adaptive": ADAPTIVE,
    "rows": Concentrated(tau=0.02, min_weight=4.0, failure_probability=1e-6, **PRIVATE),
    "none": NonPrivate(users=6, cohort=3, records_per_user=2),
}


def longer(factor):
    """The sum and its rows, ``factor`` times the longest that was asked for."""

    def change(cohort):
        unit = np.full(len(cohort.total), 1 / np.sqrt(len(cohort.total)))
        rows = None if cohort.rows is None else np.tile(factor * CLIP * unit, (UNITS, 1))
        return dataclasses.replace(cohort, total=factor * UNITS * CLIP * unit, rows=rows)

    return change


def spoiled(value):
    """One coordinate of the sum has another value."""

    def change(cohort):
        total = cohort.total.copy()
        total[7] = value
        return dataclasses.replace(cohort, total=total)

    return change


def figure(name, value):
    def change(cohort):
        return dataclasses.replace(cohort, figures={**cohort.figures, name: value})

    return change


def bits(value):
    return lambda cohort: dataclasses.replace(cohort, unclipped_bits=value)


def rows(change):
    """Other rows, and the sum that they add up to."""

    def changed(cohort):
        made = change(cohort.rows)
        return dataclasses.replace(cohort, rows=made, total=made.sum(0))

    return changed


def rows_alone(change):
    return lambda cohort: dataclasses.replace(cohort, rows=change(cohort.rows))


SUMS = {
    "nan": (spoiled(np.nan), "not finite"),
    "inf": (spoiled(-np.inf), "not finite"),
    "too-large-to-square": (spoiled(1e200), "not finite"),
    "1e6-times-C": (longer(1e6), "longer"),
    "ten-times-C": (longer(10), "longer"),
    "a-thousandth-too-long": (longer(1.001), "longer"),
    "nan-figure": (figure("train_loss", np.nan), "train_loss"),
    "more-units-than-asked": (figure("cohort_size", UNITS * 2 + 1), "cohort_size"),
    "negative-figure": (figure("failed_units", -1), "failed_units"),
    "infinite-figure": (figure("tokens_used", np.inf), "tokens_used"),
    "undeclared-figure": (figure("my locker code is 4711", 1.0), "no table declares"),
    "public-figure": (figure("epsilon", 0.1), "no table declares"),
    "bits-unasked": (bits(0.5), "count_unclipped"),
    "rows-unasked": (rows_alone(lambda _: np.zeros((1, 4))), "form"),
}
CASES = [
    *(pytest.param("user", *case, id=f"user-{name}") for name, case in SUMS.items()),
    pytest.param("slot", longer(4), "longer", id="slot-longer"),
    pytest.param("slot", spoiled(np.nan), "not finite", id="slot-nan"),
    pytest.param("none", spoiled(np.nan), "not finite", id="none-nan"),
    pytest.param("adaptive", bits(None), "count_unclipped", id="bits-missing"),
    pytest.param("adaptive", bits(2.0), "clip bits", id="bits-too-many"),
    pytest.param("adaptive", bits(np.nan), "clip bits", id="bits-nan"),
    pytest.param("rows", rows_alone(lambda _: None), "keep_rows", id="rows-missing"),
    pytest.param(
        "rows", rows(lambda r: np.zeros((10_000, r.shape[1]))), "more rows", id="rows-10000"
    ),
    pytest.param("rows", rows(lambda r: r * 1.01), "longer", id="rows-too-long"),
    pytest.param("rows", rows_alone(lambda r: r[::-1] * 0.9), "add up", id="rows-of-another-sum"),
    pytest.param("rows", rows_alone(lambda r: r * np.nan), "not finite", id="rows-nan"),
]


def wrong_node(change):
    """A node's work, whose sums the second node changes before they are sent."""

    def train(host, message):
        reply = host.train(message)
        if message.metadata.dst_node_id != 3:
            return reply
        cohort = change(messages.read_reply(reply, host.model.layout))
        return messages.train_reply(message, host.model.layout, cohort)

    return train


def run_of(tmp_path, mechanism, train, **options):
    k = 2 if mechanism.unit == "record_slot" else None
    return tiny.federation(
        tmp_path,
        mechanism,
        tiny.people(6),
        nodes=2,
        cohort=tiny.everyone(6, k),
        train=train,
        **options,
    )


@pytest.mark.parametrize(("mechanism", "change", "reason"), CASES)
def test_a_wrong_sum_of_one_node_is_refused_before_the_release(tmp_path, mechanism, change, reason):
    """Even where failed nodes may be dropped: the round is spent, and the ledger says no more."""
    run = run_of(tmp_path, MECHANISMS[mechanism], wrong_node(change), drop_failed_nodes=True)
    with pytest.raises(NodeFailedError, match=f"node 3 is refused: .*{reason}") as stop:
        run.run(2)
    assert "locker" not in str(stop.value)
    assert run.mechanism.means == []
    assert [entry["kind"] for entry in run.entries()[1:]] == ["intent"]
    assert verify(run.path).unfinished == (1,)


@pytest.mark.parametrize("name", MECHANISMS)
def test_honest_nodes_pass_with_every_mechanism(tmp_path, name):
    run = run_of(tmp_path, MECHANISMS[name], lambda host, message: host.train(message))
    run.run(2)
    assert len(run.mechanism.means) == 2


@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("size", [1, 30_000])
def test_a_sum_of_units_in_one_direction_at_the_clip_norm_passes_and_a_hair_more_does_not(
    count, size
):
    """The longest honest sum: clipped by the engine's own rule, added up one after another."""
    row = torch.from_numpy(np.random.default_rng(size).normal(size=size)).float() * 1e3
    total = clipped_sum(row.expand(count, size), CLIP).total.numpy()
    layout, asked = asked_for(count, size)
    checked(reply_to(asked, layout, total), asked, layout)
    with pytest.raises(ReplyRefusedError, match="longer"):
        checked(reply_to(asked, layout, total * (1 + 1e-9)), asked, layout)


def asked_for(count, size):
    layout = Layout.of({"a": (size,)})
    contract = tiny.contract(
        UserWise(users=2000, **{k: v for k, v in PRIVATE.items() if k != "users"})
    )
    request = messages.train_message(
        2, layout.to_arrays(np.zeros(size)), contract, tiny.everyone(count)
    )
    return layout, Asked(request, contract, count)


FIGURES = {"cohort_size": 1.0, "failed_units": 0.0}


def reply_to(asked, layout, total, figures=FIGURES):
    return messages.train_reply(asked.message, layout, CohortSum(total, figures))


def raw(asked, **records):
    """A reply of records that no node of ours writes."""
    good = {
        "clipped_sum": ArrayRecord({"a": Array(np.zeros(4))}),
        "simulation_only": MetricRecord(dict(FIGURES)),
    }
    content = {name: record for name, record in {**good, **records}.items() if record is not None}
    return Message(RecordDict(content), reply_to=asked.message)


def test_a_reply_of_another_form_is_refused_in_words_that_quote_nothing():
    layout, asked = asked_for(1, 4)
    checked(raw(asked), asked, layout)
    secret = "locker-4711"
    damaged = Array(dtype="float64", shape=(4,), stype="numpy.ndarray", data=secret.encode())
    wrong = [
        {"clipped_sum": None},
        {"simulation_only": None},
        {"simulation_only": MetricRecord({"cohort_size": 1})},
        {"simulation_only": MetricRecord({**FIGURES, "train_loss": [1.0, 2.0]})},
        {"simulation_only": ConfigRecord({"cohort_size": secret})},
        {"clipped_sum": ArrayRecord({"a": Array(np.zeros(5))})},
        {"clipped_sum": ArrayRecord({"a": Array(np.zeros((2, 2)))})},
        {"clipped_sum": ArrayRecord({secret: Array(np.zeros(4))})},
        {"clipped_sum": ArrayRecord({"a": Array(np.zeros(4, np.float32))})},
        {"clipped_sum": ArrayRecord({"a": Array(np.zeros(4, np.complex128))})},
        {"clipped_sum": ArrayRecord({"a": Array(np.array(list("abcd")))})},
        {"clipped_sum": ArrayRecord({"a": damaged})},
        {"unclipped_bits": ConfigRecord({"total": 0.5})},
        {"unclipped_bits": ConfigRecord({"sum": secret})},
        {"clipped_rows": ArrayRecord({"rows": Array(np.zeros((1, 4)))})},
        {"clipped_rows": ArrayRecord({"other": Array(np.zeros((1, 4)))})},
    ]
    for records in wrong:
        with pytest.raises(ReplyRefusedError) as refused:
            checked(raw(asked, **records), asked, layout)
        assert "locker" not in json.dumps(str(refused.value)), records


def test_a_user_whose_loss_is_not_finite_fails_alone_and_brings_no_refusal(tmp_path):
    """No record may stop a round: the honest node's figures stay finite."""
    base = copy.deepcopy(tiny.base_model("llama"))
    base.get_input_embeddings().weight.data[60] = torch.inf
    lists = {f"u{i}": [[i + 1, 2, 3, 4]] * 2 for i in range(6)} | {"u1": [[60, 1, 60]] * 2}
    run = tiny.federation(
        tmp_path,
        MECHANISMS["user"],
        Population.of(lists),
        nodes=2,
        cohort=tiny.everyone(6),
        model=LanguageModel(base, LoraSettings(r=2, alpha=4)),
    )
    run.run(1)
    assert len(run.mechanism.means) == 1
