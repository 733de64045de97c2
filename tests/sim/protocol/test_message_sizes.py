"""Bytes of the messages as Flower serialises them: the constants of docs/scale.md."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from helpers import tiny
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.protocol import messages
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment
from userdp.sim.protocol.layout import Layout
from userdp.sim.runtime.in_process import InProcessGrid

TENSOR, MESSAGE = (450, 560), (500, 1500)  # bytes beside the numbers: a tensor's, and the rest
FIGURES = ("cohort_size", "failed_units", "clipped_fraction", "mean_update_norm", "train_loss",
           "records_used", "tokens_used")  # fmt: skip
USER = 3  # bytes of the number of one user among a million


def llama(layers: int, width: int, kv: int, mlp: int, r: int = 8) -> Layout:
    """The layout of a LoRA adapter on every linear layer of a Llama."""
    linear = {
        **{f"self_attn.{name}_proj": (width, width) for name in "qo"},
        **{f"self_attn.{name}_proj": (width, kv) for name in "kv"},
        **{f"mlp.{name}_proj": (width, mlp) for name in ("gate", "up")},
        "mlp.down_proj": (mlp, width),
    }
    shapes = {}
    for layer in range(layers):
        for name, (inside, outside) in linear.items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            shapes[f"{place}.lora_A.weight"] = (r, inside)
            shapes[f"{place}.lora_B.weight"] = (outside, r)
    return Layout.of(shapes)


SMOL, ONE_B = llama(30, 576, 192, 1536), llama(16, 2048, 512, 8192)


def sizes(layout: Layout, users: int) -> tuple[int, int]:
    """Bytes of a train message to a node with so many sampled users, and of its reply."""
    InProcessGrid(ClientApp(), 1)  # a message's sender is the process that made a grid
    mechanism = UserWise(
        users=10**6, cohort=10**4, records_per_user=2, clip_norm=1.0, noise_multiplier=1.0
    )
    vector = np.random.default_rng(0).standard_normal(layout.size)
    asked = Assignment(10**6 - 1 - np.arange(users), np.empty(0, np.int64))
    adapter = layout.to_arrays(vector.astype(np.float32))
    message = messages.train_message(5, adapter, tiny.contract(mechanism), asked)
    message.metadata.__dict__["_message_id"] = "0" * 64
    figures = dict.fromkeys(FIGURES, 1.0)
    reply = messages.train_reply(message, layout, CohortSum(vector, figures, None, None))
    return _bytes(message), _bytes(reply)


def _bytes(message) -> int:
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def test_the_adapters_of_the_page_have_the_parameters_that_it_names():
    assert (SMOL.size, len(SMOL.shapes)) == (2_442_240, 420)
    assert (ONE_B.size, len(ONE_B.shapes)) == (5_636_096, 224)


@pytest.mark.parametrize("layout", [SMOL, llama(2, 64, 64, 128)], ids=["smol", "small"])
@pytest.mark.parametrize("users", [0, 10, 1000])
def test_a_message_has_four_bytes_a_parameter_and_a_reply_eight(layout, users):
    asked, answered = sizes(layout, users)
    tensors = len(layout.shapes)
    least, most = (low + tensors * each for low, each in zip(MESSAGE, TENSOR, strict=True))
    assert least < asked - 4 * layout.size - USER * users < most
    assert least < answered - 8 * layout.size < most


def test_a_reply_grows_with_no_user():
    layout = llama(2, 64, 64, 128)
    assert sizes(layout, 1)[1] == sizes(layout, 1000)[1]
