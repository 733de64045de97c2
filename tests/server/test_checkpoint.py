"""Checkpoints are restored exactly, survive an interrupted write, and fit one adapter only."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from userdp.server.checkpoint import Checkpoint
from userdp.server.ledger import ledger
from userdp.server.ledger.ledger import Ledger
from userdp.server.ledger.query import Query
from userdp.server.optimizers import server_optimizer
from userdp.sim.common.errors import ConfigurationError

EVENT = {"sampling_rate": 0.1, "noise_multiplier": 2.0, "group_size": 1}


def stepped(steps):
    server = server_optimizer.ServerOptimizer(
        np.zeros(4), lambda p: torch.optim.Adam(p, lr=0.1), lambda _: 1.0
    )
    for step in range(steps):
        server.step(np.arange(4.0) + step, 0.1)
    return server


def checkpoint(steps, layout="abc"):
    return Checkpoint(steps, f"head{steps}", layout, stepped(steps).state(), {})


def test_a_checkpoint_comes_back_whole(tmp_path):
    checkpoint(3).save(tmp_path)
    loaded = Checkpoint.load(tmp_path, "abc")
    assert (loaded.round, loaded.ledger_head, loaded.layout) == (3, "head3", "abc")
    server = stepped(0)
    server.restore(loaded.optimizer)
    uninterrupted = stepped(3)
    for each in (server, uninterrupted):
        each.step(np.ones(4), 0.1)
    np.testing.assert_array_equal(server.adapter, uninterrupted.adapter)


def test_the_digest_is_that_of_the_file(tmp_path):
    digest = checkpoint(1).save(tmp_path)
    [path] = tmp_path.iterdir()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_last_one_replaces_the_one_before(tmp_path):
    for steps in (1, 2):
        checkpoint(steps).save(tmp_path / "new" / "folder")
    assert Checkpoint.load(tmp_path / "new" / "folder", "abc").round == 2


def test_an_interrupted_write_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint(1).save(tmp_path)

    def crash(_):
        raise OSError("power")

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(OSError, match="power"):
        checkpoint(2).save(tmp_path)
    assert Checkpoint.load(tmp_path, "abc").round == 1


def test_there_is_none_before_the_first_release(tmp_path):
    assert Checkpoint.load(tmp_path, "abc") is None


def test_another_adapters_checkpoint_is_refused(tmp_path):
    checkpoint(1).save(tmp_path)
    with pytest.raises(ConfigurationError, match="other shapes"):
        Checkpoint.load(tmp_path, "abd")


@pytest.mark.slow
def test_every_change_of_one_byte_is_refused(tmp_path):
    header = {"event": EVENT, "delta": 1e-5}
    with Ledger.create(tmp_path / "ledger.jsonl", header) as book:
        book.intend(1, EVENT, [Query(name="update", sensitivity=0.5, noise_std=1.0)])
        head = book.head
        stored = Checkpoint(1, head, "abc", stepped(1).state(), {})
        book.done(1, stored.save(tmp_path))
    account = ledger.verify(tmp_path / "ledger.jsonl")
    assert Checkpoint.load(tmp_path, "abc", account) is not None
    [path] = tmp_path.glob("*.pt")
    sound = path.read_bytes()
    for position in range(len(sound)):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        with pytest.raises(ConfigurationError, match=r"state\.pt"):
            Checkpoint.load(tmp_path, "abc", account)
