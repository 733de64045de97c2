"""Code that only a run folder names is not loaded; a claim names the code that adds its noise."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from toy_table import FOLDER, SEARCH_PATH

from helpers import small_world
from helpers.whole_runs import check_refused, stated
from userdp.server.statement import conditions
from userdp.sim import cli

pytestmark = pytest.mark.slow  # whole runs

PLANTED = """
from pathlib import Path
Path("loaded").touch()
from toys.per_layer import PerLayer
"""


@pytest.fixture
def planted(run_of, capsys, tmp_path, monkeypatch):
    """A folder to work in, with a module that shows whether it was ever imported."""
    for kind in ("selection rule", "mechanism", "metric", "accountant"):
        run_of(kind)
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("USERDP_CODE", raising=False)
    (tmp_path / "planted.py").write_text(PLANTED)
    yield tmp_path
    sys.modules.pop("planted", None)


def copied(run_of, kind: str, key: str, value: object) -> Path:
    """A copy of a run of this kind whose configuration has another value."""
    shutil.copytree(run_of(kind)[0], copy := Path("copy"))
    config = yaml.safe_load((copy / "config.yaml").read_text())
    group, _, name = key.partition(".")
    if name == "_target_":  # as older versions wrote it
        config[group] = {"_target_": value, "_partial_": True, "lr": 0.1}
    else:
        config[group][name] = value
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    return copy


@pytest.mark.parametrize(
    "key",
    [
        "strategy.name",
        "optimizer.name",
        "optimizer._target_",
        "privacy.accountant",
        "selection.rule",
        "data.format",
        "runtime.kind",
    ],
)
def test_a_copied_run_folder_runs_no_code_at_resume(run_of, planted, capsys, key):
    copy = copied(run_of, "selection rule", key, "planted.PerLayer")
    toys = ["selection.rule=toys.most_distinct.RULE"] if key != "selection.rule" else []
    shown = key.replace("_target_", "name")
    told = f"{shown}=planted.PerLayer: the run folder names code of another package"
    check_refused(capsys, ["run", f"resume={copy}", *toys], told, "USERDP_CODE=planted")
    assert not Path("loaded").exists()


def test_code_is_loaded_where_the_command_names_it_or_the_variable_lists_its_package(
    run_of, planted, capsys, monkeypatch
):
    """The run is complete, so it ends after its configuration was read."""
    copy = copied(run_of, "mechanism", "strategy.name", "planted.PerLayer")
    over = "rounds are spent"
    check_refused(capsys, ["run", f"resume={copy}", "strategy.name=planted.PerLayer"], over)
    assert Path("loaded").exists()
    monkeypatch.setenv("USERDP_CODE", "other, planted")
    check_refused(capsys, ["run", f"resume={copy}"], over)


def test_nothing_but_an_optimiser_is_called_as_one(run_of, planted, capsys, monkeypatch):
    """Even where the package may be loaded, and in a new run."""
    copy = copied(run_of, "metric", "optimizer._target_", "torch.hub.load")
    (copy / "privacy_statement.json").unlink()
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**config, "rounds": 4}))
    monkeypatch.setenv("USERDP_CODE", "toys")
    check_refused(capsys, ["run", f"resume={copy}"], "optimizer.name=torch.hub.load", "USERDP_CODE")
    for name in ("torch.hub.load", "os.system", "torch.optim.Optimizer", "planted.PerLayer"):
        told = [f"optimizer.name={name}"]
        options = small_world.overrides(f"optimizer.name={name}", "output=refused")
        check_refused(capsys, ["run", *options], *told)
    for nested in ("+optimizer.x={_target_:os.getcwd}", "+optimizer._args_=[1]"):
        options = small_world.overrides(nested, "output=refused")
        check_refused(capsys, ["run", *options], "optimizer.")
    assert not Path("refused").exists()


def test_an_interpolation_in_a_copied_run_folder_reads_no_environment(
    run_of, planted, capsys, monkeypatch
):
    monkeypatch.setenv("SECRET", "hush")
    copy = copied(run_of, "metric", "model.path", "${oc.env:SECRET}")
    assert "hush" not in check_refused(capsys, ["run", f"resume={copy}"], "interpolation")


@pytest.mark.parametrize("kind", ["mechanism", "metric"])
def test_verify_and_report_load_no_code_of_another_package(run_of, capsys, monkeypatch, kind):
    folder, asked = run_of(kind)[0], []
    monkeypatch.delenv("USERDP_CODE", raising=False)
    load = importlib.import_module

    def noted(name, package=None):
        asked.append(name)
        return load(name, package)

    monkeypatch.setattr(importlib, "import_module", noted)
    assert cli.main(["verify", str(folder)]) == 0
    name = stated(folder)["strategy"]
    out = capsys.readouterr().out
    assert f"Mechanism of another package: {name}; its code was not loaded" in out
    assert cli.main(["report", str(folder)]) == 0
    assert not [name for name in asked if name.startswith("toys")]
    monkeypatch.setenv("USERDP_CODE", "toys")
    assert cli.main(["verify", str(folder)]) == 0
    assert [name for name in asked if name.startswith("toys")]  # the list sees what is imported


def test_without_its_code_verify_still_compares_the_claim(run_of, planted, capsys):
    shutil.copytree(run_of("mechanism")[0], copy := Path("copy"))
    path = copy / "privacy_statement.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "epsilon": said["epsilon"] / 2, "epsilon_lower": 0.0}))
    check_refused(capsys, ["verify", str(copy)], "the ledger says")
    path.write_text(json.dumps(said))
    capsys.readouterr()
    assert cli.main(["verify", str(copy)]) == 0
    assert "Not compared: the statement's assumptions" in capsys.readouterr().out


def test_a_claim_by_an_accountant_whose_code_is_not_loaded_cannot_be_verified(
    run_of, planted, capsys
):
    told = ("privacy.accountant=toys.zcdp.ACCOUNTANT", "USERDP_CODE=toys")
    check_refused(capsys, ["verify", str(run_of("accountant")[0])], *told)


@pytest.mark.parametrize(("kind", "file"), [("mechanism", "per_layer"), ("metric", None)])
def test_the_first_sentence_names_the_code_that_adds_the_noise(run_of, kind, file):
    folder, printed = run_of(kind)
    said = stated(folder)
    card = (folder / "adapter" / "README.md").read_text()
    first = next(line for line in card.splitlines() if line.startswith("This adapter is"))
    sentence = first.partition(". Epsilon is")[0]
    assert f"noise of every round is added by code outside userdp: {said['strategy']}" in sentence
    assert conditions.first_sentence(said) in " ".join(printed.split())
    if file:
        digest = hashlib.sha256((FOLDER / f"{file}.py").read_bytes()).hexdigest()
        whole = hashlib.sha256(f"toys.{file} {digest}\n".encode()).hexdigest()
        assert whole in sentence


def test_another_name_of_a_mechanism_in_the_table_is_stated_by_that_of_the_table():
    options = ["strategy.name=userdp.server.mechanisms.user_wise.UserWise", "rounds=1"]
    assert cli.main(["run", *small_world.overrides("output=same", SEARCH_PATH, *options)]) == 0
    said = stated(Path("same"))
    assert said["strategy"] == "user_wise"
    assert "outside userdp" not in json.dumps(said)


@pytest.mark.parametrize("name", ["gold (epsilon 0.1)", "a.b (c)", "x. y", "user_wise.", "\\n"])
@pytest.mark.parametrize("key", ["strategy.name", "privacy.accountant", "selection.rule"])
def test_free_text_is_no_name(capsys, key, name):
    options = small_world.overrides(f"{key}='{name}'", "output=refused")
    check_refused(capsys, ["run", *options], key, "choose one of")
