"""Whole runs of privacy.noise=discrete: what they claim, what they refuse, how they go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import small_world
from helpers.whole_runs import check_refused, logged, ran, stated
from userdp.sim import cli

pytestmark = pytest.mark.slow  # whole runs

DISCRETE = "privacy.noise=discrete"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def header(folder: Path) -> dict:
    return json.loads((folder / "ledger.jsonl").read_text().splitlines()[0])["mechanism"]


@pytest.mark.parametrize("strategy", ["user_wise", "group_privacy"])
def test_a_run_has_the_epsilon_of_float_noise_and_says_that_the_gap_is_closed(capsys, strategy):
    exact = ran("exact", f"strategy={strategy}", DISCRETE, "runtime.nodes=3")
    assert ", discrete" in capsys.readouterr().out
    plain = ran("plain", f"strategy={strategy}")
    told, other = stated(exact), stated(plain)
    for name in ("epsilon", "epsilon_lower", "delta", "noise_multiplier", "private"):
        assert told[name] == other[name]
    assert any(text.startswith("noise is discrete") for text in told["assumptions"])
    assert "Mironov" not in json.dumps(told)
    assert "Mironov" in json.dumps(other)
    assert header(exact)["noise"] == "discrete"
    assert "noise" not in header(plain)
    assert cli.main(["verify", str(exact)]) == 0
    assert "Mironov" not in (exact / "adapter" / "README.md").read_text()
    stds = [row["noise_std"] for row in logged(exact) if "noise_std" in row]
    assert stds == pytest.approx([told["noise_multiplier"] * told["clip_norm"]] * 2)


def test_a_plain_step_on_a_release_moves_the_adapter_by_multiples_of_the_grid():
    """With SGD at rate 1 and m a power of two, the first step itself is on a grid."""
    step = ["optimizer=sgd", "optimizer.lr=1.0"]
    more = ["cohort=4", "rounds=1", "privacy.epsilon=null", "privacy.noise_multiplier=1.0"]
    folder = ran("run", DISCRETE, *step, *more)
    [entry] = [row for row in logged(folder) if "release_norm" in row]
    squared = (entry["release_norm"] * 4 * 2**20) ** 2  # the sum of squares of whole steps
    assert squared == pytest.approx(round(squared), rel=1e-12)
    assert entry["noise_std"] == 1.0


@pytest.mark.parametrize("strategy", ["concentrated", "matrix_factorization", "non_private"])
def test_a_strategy_that_cannot_round_is_refused_in_one_line(capsys, strategy):
    asked = ["run", *small_world.overrides(f"strategy={strategy}", DISCRETE, "output=out")]
    told = check_refused(capsys, asked, DISCRETE, f"strategy={strategy}", "privacy.noise=float")
    assert not Path("out").exists(), told


def test_another_name_is_refused(capsys):
    asked = ["run", *small_world.overrides("privacy.noise=grid", "output=out")]
    check_refused(capsys, asked, "privacy.noise=grid", "'float' or 'discrete'")


@pytest.mark.parametrize(("first", "then"), [("float", "discrete"), ("discrete", "float")])
def test_a_resumed_run_keeps_its_noise(capsys, first, then):
    folder = ran("run", f"privacy.noise={first}")
    capsys.readouterr()
    check_refused(
        capsys, ["run", f"resume={folder}", "rounds=3", f"privacy.noise={then}"], "noise: "
    )
