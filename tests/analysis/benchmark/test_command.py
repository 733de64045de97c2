"""`userdp bench`: its errors, and one small benchmark end to end."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from helpers.tiny_work import TINY
from userdp.analysis.benchmark import command
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["case=huge"], "case=huge"),
        (["case=mail"], "lengths=FILE"),
        (["sides=round,horovod"], "sides=horovod"),
        (["users=0"], "users=0"),
        (["dtype=float16"], "dtype=float16"),
        (["width=30", "heads=4"], "heads must divide width"),
        (["lengths=nowhere.jsonl"], "nowhere.jsonl"),
        (["colour=red"], "colour"),
        (["case=cohorts"], "--long"),
        *([(["device=cuda"], "no CUDA device")] if not torch.cuda.is_available() else []),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        command.main(options)


@pytest.mark.slow
def test_a_peer_that_is_not_installed_is_left_out_and_the_others_are_measured(capsys):
    tiny = ["users=4", "records=2", "length=6", "threads=1", "repeats=1", "batch=2"]
    options = [f"{name}={value}" for name, value in TINY.items()]
    needs = {"pfl": "pfl", "flower_ray": "ray"}  # side -> its package
    missing = [side for side, package in needs.items() if not importlib.util.find_spec(package)]
    sides = ",".join(["round", "plain", "loop", *missing])
    assert cli.main(["bench", *tiny, *options, f"sides={sides}", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results["sides"]) == ["round", "plain", "loop"]
    assert results["sides"]["loop"]["sum_difference"] < 1e-5
    assert all(side["tokens_a_second"] > 0 for side in results["sides"].values())
    assert [line.split(" is left out")[0] for line in results["left_out"]] == missing
