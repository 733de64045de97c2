"""One extension of each kind from outside the package, each in whole runs by the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from toy_table import REPEATABLE, ROUNDS, SEARCH_PATH, TOYS

from helpers import small_world
from helpers.whole_runs import adapter, check_refused, logged, ran, stated
from userdp.server import strategy as server_strategy
from userdp.server.ledger import ledger
from userdp.server.statement import schema
from userdp.sim import cli
from userdp.sim.common.flatten import flatten

pytestmark = pytest.mark.slow  # whole runs


@pytest.mark.parametrize("kind", TOYS)
def test_a_run_ends_with_a_verified_private_statement_and_a_page_that_names_the_extension(
    run_of, capsys, monkeypatch, kind
):
    folder, _ = run_of(kind)
    toy, config = TOYS[kind], yaml.safe_load((folder / "config.yaml").read_text())
    assert flatten(config)[toy.key] == toy.dotted
    statement = stated(folder)
    schema.validate(statement)
    assert statement["private"]
    assert statement["epsilon_lower"] <= statement["epsilon"] <= 8
    assert statement["rounds"] == ROUNDS
    assert cli.main(["report", str(folder)]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1])
    assert toy.dotted in page.read_text()
    monkeypatch.setenv("USERDP_CODE", "toys")
    assert cli.main(["verify", str(folder)]) == 0
    assert "was not loaded" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "field"),
    [("mechanism", "strategy"), ("accountant", "accountant"), ("selection rule", "selection")],
)
def test_the_statement_names_the_extensions_that_a_claim_depends_on(run_of, kind, field):
    folder, _ = run_of(kind)
    assert stated(folder)[field] == TOYS[kind].dotted
    assert TOYS[kind].dotted in (folder / "adapter" / "README.md").read_text()


@pytest.mark.parametrize("optimizer", ["sgd", "lion"])
def test_a_resumed_run_equals_the_whole_one(monkeypatch, tmp_path, optimizer):
    """Stopped between two rounds; the stored configuration finds the extensions again."""
    options = [SEARCH_PATH, "strategy=per_layer", f"rounds={ROUNDS}", *REPEATABLE]
    options += [f"optimizer={optimizer}"]
    whole = ran(tmp_path / "whole", *options)
    configure = server_strategy.PrivateStrategy.configure_train

    def stopping(self, *arguments):
        if self.ledger.next_round == 2:
            raise KeyboardInterrupt
        return configure(self, *arguments)

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(server_strategy.PrivateStrategy, "configure_train", stopping)
        assert cli.main(["run", *small_world.overrides(f"output={stopped}", *options)]) == 130
    monkeypatch.setenv("USERDP_CODE", "toys")
    assert cli.main(["run", f"resume={stopped}"]) == 0
    np.testing.assert_array_equal(adapter(stopped), adapter(whole))
    assert cli.main(["verify", str(stopped)]) == 0


def test_a_sweep_over_two_seeds_finds_the_extension(capsys):
    options = [SEARCH_PATH, "strategy=per_layer", "seed=1,2", "output=sweep"]
    assert cli.main(["run", "-m", *small_world.overrides(*options)]) == 0
    folders = [path.parent for path in Path("sweep").glob("*/privacy_statement.json")]
    assert [stated(folder)["strategy"] for folder in folders] == ["toys.per_layer.PerLayer"] * 2
    assert cli.main(["report", "sweep"]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1])
    assert "toys.per_layer.PerLayer" in page.read_text()


def test_a_mechanism_whose_queries_contradict_its_event_releases_nothing():
    options = small_world.overrides("strategy.name=wrong_toys.UnderstatedCost", "output=wrong")
    with pytest.raises(ValueError, match=r"The queries \(update\) .* but the event says"):
        cli.main(["run", *options])
    assert ledger.verify(Path("wrong/ledger.jsonl")).rounds == 0
    assert {row["round"] for row in logged(Path("wrong"))} == {0}
    assert not Path("wrong/privacy_statement.json").exists()
    assert not Path("wrong/adapter").exists()


def test_a_mechanism_without_its_noise_releases_nothing(capsys):
    options = small_world.overrides("strategy.name=wrong_toys.WithoutNoise", "output=noiseless")
    assert cli.main(["run", *options]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("userdp: stopped: strategy.name=WithoutNoise: its release differs")
    account = ledger.verify(Path("noiseless/ledger.jsonl"))
    assert (account.rounds, account.unfinished) == (1, (1,))  # spent, and not released
    assert not list(Path("noiseless").glob("checkpoint/*.pt"))
    assert {row["round"] for row in logged(Path("noiseless"))} == {0}


def test_an_accountant_below_what_is_certified_is_refused_before_a_run_starts():
    noise = ["privacy.epsilon=null", "privacy.noise_multiplier=1"]
    options = ["privacy.accountant=wrong_toys.TOO_LOW", "output=low", *noise]
    with pytest.raises(ArithmeticError, match="below the certified"):
        cli.main(["run", *small_world.overrides(*options)])
    assert not Path("low").exists()


@pytest.mark.parametrize(
    "key", ["strategy.name", "data.format", "privacy.accountant", "selection.rule"]
)
def test_an_object_of_another_kind_is_refused(capsys, key):
    options = small_world.overrides(f"{key}=toys.per_layer.LAYERS", "output=refused")
    check_refused(capsys, ["run", *options], f"{key}=toys.per_layer.LAYERS")
    assert not Path("refused").exists()
