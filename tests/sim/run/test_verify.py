"""`userdp verify` uses every file of a run folder, against a forger who reseals the chain."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from helpers import forgery, small_world
from helpers.forgery import Entries
from helpers.whole_runs import check_refused, ran, stated, stopped
from userdp.server.accounting import second_opinion
from userdp.server.ledger import ledger
from userdp.sim import cli

OLD = Path(__file__).parents[2] / "old_runs"
EVIDENCE = ["config.yaml", "privacy_statement.json", "metrics.jsonl", "checkpoint", "adapter"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
        return ran(folder / "run", "privacy.users=60")


@pytest.fixture(autouse=True)
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return Path(shutil.copytree(finished, Path("run")))


def removed(run: Path, *names: str) -> None:
    for name in names:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def refused(capsys: pytest.CaptureFixture[str], *told: str, run: str = "run") -> None:
    capsys.readouterr()
    check_refused(capsys, ["verify", run], *told)


def accepted(capsys: pytest.CaptureFixture[str], *options: str, run: str = "run") -> str:
    capsys.readouterr()
    assert cli.main(["verify", run, *options]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_all_that_a_run_wrote_is_compared(capsys):
    out = accepted(capsys)
    for name in (
        *("config.yaml", "privacy_statement.json", "metrics.jsonl", "adapter_model.safetensors"),
        *("adapter_config.json", "README.md", "checkpoint/state.pt", "checkpoint of round 2"),
    ):
        assert name in out.splitlines()[0], out
    assert "Not compared" not in out
    assert ledger.verify(Path("run/ledger.jsonl")).head in out


# The ledger alone: the forger reseals it and takes everything else away.


def scaled(factor: float, noise: float) -> Callable[[Entries], None]:
    """Sensitivity and noise of every query times these factors."""

    def edit(entries: Entries) -> None:
        for entry in entries:
            for query in entry.get("queries", []):
                query["sensitivity"] *= factor
                query["noise_std"] *= noise

    return edit


def louder(entries: Entries) -> None:
    """As if the noise multiplier had been 10 all along."""
    z = entries[0]["mechanism"]["event"]["noise_multiplier"]
    forgery.mechanism(entries, noise_multiplier=10.0)
    scaled(1, 10 / z)(entries)


def rarer(entries: Entries) -> None:
    forgery.mechanism(entries, sampling_rate=6 / 60 / 100)


HEADER_ALONE = [
    (lambda entries: forgery.mechanism(entries, rounds_per_event=6), "rounds_per_event: 6"),
    (rarer, "event.sampling_rate: 0.001"),
    (louder, "costs epsilon"),
    (scaled(0.1, 0.1), "in round 1, [['update'"),
    (lambda entries: forgery.mechanism(entries, denominator=60.0), "denominator: 60.0"),
    (lambda entries: forgery.mechanism(entries, clip_norm=0.1), "in round 1, [['update'"),
    (lambda entries: forgery.mechanism(entries, sampling_scheme="all"), "sampling_scheme"),
    (lambda entries: forgery.mechanism(entries, clipped_unit="record_slot"), "clipped_unit"),
    (lambda entries: forgery.mechanism(entries, mechanism_details={"bands": 1}), "bands"),
    (lambda entries: forgery.mechanism(entries, cohort_cap=3), "cohort_cap: 3"),
    (lambda entries: forgery.mechanism(entries, strategy_options={"window": 1}), "no option"),
    (lambda entries: entries[0]["mechanism"].pop("cohort") and None, "lacks 'cohort'"),
]


@pytest.mark.parametrize(("edit", "told"), HEADER_ALONE)
def test_a_header_is_measured_by_its_own_mechanism(capsys, run, edit, told):
    removed(run, *EVIDENCE)
    forgery.resealed(run, edit)
    refused(capsys, told)


def test_a_resealed_ledger_that_tells_the_truth_is_accepted(capsys, run):
    """The forger above changes nothing else, so what refuses is the change."""
    removed(run, *EVIDENCE)
    forgery.resealed(run, lambda entries: None)
    out = accepted(capsys)
    assert out.count("Not compared: ") == 3


def test_the_failure_probability_of_a_round_is_recomputed(capsys):
    shutil.copytree(OLD / "concentrated", "old")
    removed(Path("old"), "privacy_statement.json", "metrics.jsonl")
    forgery.resealed(
        Path("old"), lambda entries: forgery.mechanism(entries, failure_probability=1e-30)
    )
    refused(capsys, "failure_probability: 1e-30", run="old")


@pytest.mark.parametrize("name", ["group_privacy", "matrix_factorization"])
def test_an_old_run_is_measured_by_its_configuration(capsys, name):
    shutil.copytree(OLD / name, "old")
    removed(Path("old"), "privacy_statement.json", "metrics.jsonl")
    forgery.resealed(Path("old"), lambda entries: forgery.mechanism(entries, rounds_per_event=40))
    refused(capsys, "rounds_per_event: 40", run="old")
    removed(Path("old"), "config.yaml")
    refused(capsys, "config.yaml is missing", run="old")


# The configuration.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"delta": 0.016}, "delta: 0.016"),
        ({"epsilon_target": None, "noise_multiplier": 10.0}, "epsilon_target: None"),
        ({"declared_users": 600, "sampling_rate": 0.01, "delta": 1 / 6000}, "declared_users: 600"),
        ({"adjacency": "zero-out-one-user"}, "adjacency: 'zero-out-one-user'"),
        ({"users_counted": True}, "users_counted: True"),
        ({"unit": "record"}, "unit: 'record'"),
        ({"local_lr": 0.5}, "local_lr: 0.5"),
        ({"rounds": 3}, "rounds: 3"),
    ],
)
def test_the_ledger_is_that_of_the_stored_configuration(capsys, run, changes, told):
    removed(run, *EVIDENCE[1:])

    def edit(entries: Entries) -> None:
        if "noise_multiplier" in changes:
            louder(entries)
        forgery.mechanism(entries, **changes)

    forgery.resealed(run, edit)
    refused(capsys, told)


def test_a_seed_cannot_become_a_secret(capsys):
    run = ran("seeded", "privacy.reproducible=true")
    removed(run, "privacy_statement.json", "metrics.jsonl", "adapter", "checkpoint")
    forgery.resealed(run, lambda entries: forgery.mechanism(entries, seeds_policy="secret"))
    refused(capsys, "seeds_policy: 'secret' in the ledger, 'reproducible'", run="seeded")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("optimizer.lr", 0.5, "optimizer.lr"),
        ("selection.rule", "longest", "selection"),
        ("privacy.reproducible", True, "seeds_policy"),
        ("data.holdout", 0.6, "data.holdout"),
        ("data.user", None, "unit"),
        ("strategy.clip_norm", 9.0, "clip_norm"),
        ("cohort", 20, "sampling_rate"),
        ("privacy.users", None, "users_counted"),
        ("strategy.name", "nothing", "strategy.name=nothing"),
        ("rounds", [], "rounds"),
    ],
)
def test_an_edited_configuration_is_refused(capsys, run, key, value, told):
    forgery.configuration(run, key, value)
    refused(capsys, told)


# Statement, card, adapter, checkpoint, metrics.


def restated(run: Path, **changes: object) -> None:
    path = run / "privacy_statement.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes", [{"epsilon": 1.0}, {"simulation_only": True}, {"assumptions": []}, {"rounds": 1}]
)
def test_another_statement_is_refused(capsys, run, changes):
    restated(run, **changes)
    refused(capsys, "privacy_statement.json")


def card_changed(run: Path, old: str, new: str, *, digest: bool) -> None:
    """Edit the card; ``digest``: and its digest in the statement."""
    path = run / "adapter" / "README.md"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if digest:
        files = stated(run)["files"]
        files["adapter/README.md"] = hashlib.sha256(path.read_bytes()).hexdigest()
        restated(run, files=files)


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(epsilon = 7", "(epsilon = 6"),
        ("| epsilon | 7", "| epsilon | 6"),
        ("| delta | 0.0", "| delta | 0.00"),
        ("| simulation_only | false |", "| simulation_only | true |"),
        ("# LoRA", "# NOT PRIVATE: LoRA"),
    ],
)
def test_a_card_with_another_claim_is_refused(capsys, run, old, new, digest):
    card_changed(run, old, new, digest=digest)
    refused(capsys, "README.md")


def test_any_other_word_of_the_card_is_refused_by_its_digest(capsys, run):
    card_changed(run, "## Use", "## Audited and found to be perfect\n\n## Use", digest=False)
    refused(capsys, "is not the file that this run published")


def test_the_card_of_an_old_run_is_measured_by_its_figures(capsys):
    run = Path(shutil.copytree(OLD / "user_wise", "old"))
    card_changed(run, "epsilon = 7.99199", "epsilon = 0.99199", digest=False)
    refused(capsys, "epsilon = 0.99199", run="old")


def test_another_adapter_is_refused(capsys, run):
    path = run / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    name = min(tensors)
    tensors[name] = np.nextafter(tensors[name], np.float32(1))
    safetensors.numpy.save_file(tensors, path)
    refused(capsys, "adapter_model.safetensors", "SHA-256")


def test_weights_that_no_statement_names_are_refused(capsys, run):
    (run / "adapter" / "adapter_model.bin").write_bytes(b"other weights")
    refused(capsys, "adapter_model.bin", "names no such file")


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "adapter/README.md"])
def test_a_digest_that_was_taken_out_of_the_statement_is_missed(capsys, run, name):
    restated(run, files={k: v for k, v in stated(run)["files"].items() if k != name})
    refused(capsys, name, "names no such file")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter/README.md", b"\xff"),
        ("config.yaml", b"- 1"),
        ("config.yaml", b"rounds: ["),
        ("metrics.jsonl", b'{"round": 1, "clip_norm": "C"}\n'),
        ("metrics.jsonl", b'\xff{"round": 1}\n'),
        ("privacy_statement.json", b"{}"),
        ("checkpoint/state.pt", b""),
    ],
)
def test_damaged_files_end_in_one_line(capsys, run, name, content):
    (run / name).write_bytes(content)
    refused(capsys, name.rpartition("/")[2])


@pytest.mark.parametrize("value", [None, [], {}, "", -1])
@pytest.mark.parametrize(
    "field", ["event", "mechanism_details", "cohort", "records_per_user", "clip_norm", "accountant"]
)
def test_a_header_with_any_other_value_ends_in_one_line(capsys, run, field, value):
    removed(run, *EVIDENCE)
    before = ledger.verify(run / "ledger.jsonl").header[field]
    if value == before:
        value = [value]
    path = run / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()][:1]
    lines[0]["mechanism"][field] = value
    path.write_text("")
    forgery.sealed(path, lines)
    refused(capsys, "verify")


def test_an_adapter_that_was_moved_away_is_named(capsys, run):
    removed(run, "adapter")
    out = accepted(capsys)
    assert "Not compared: adapter/adapter_model.safetensors is not there" in out


@pytest.mark.parametrize("with_statement", [True, False])
def test_a_garbage_checkpoint_is_refused(capsys, run, with_statement):
    (run / "checkpoint" / "state.pt").write_bytes(b"garbage")
    if not with_statement:
        removed(run, "privacy_statement.json")
    refused(capsys, "state.pt")


def test_a_swapped_checkpoint_is_refused(capsys, run):
    removed(run, "privacy_statement.json")
    forgery.state(run, lambda values: values["mechanism"].update(clip_norm=50.0))
    refused(capsys, "is not the checkpoint of round 2")


@pytest.mark.parametrize("kept", ["checkpoint", "metrics.jsonl"])
def test_a_tail_that_was_cut_off_is_seen_from_one_file(capsys, run, kept):
    removed(run, *(name for name in EVIDENCE if name != kept))
    lines = (run / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (run / "ledger.jsonl").write_bytes(b"".join(lines[:3]))
    refused(capsys, "entries were removed")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"summary/epsilon": 7', '"summary/epsilon": 6'),
        ('"clip_norm": 1.0', '"clip_norm": 2.0'),
        ('"noise_std": 0', '"noise_std": 1'),
        ('"epsilon": 7', '"epsilon": 6'),
        ('{"round": 2, "learning_rate"', '{"round": 3, "learning_rate"'),
        (
            "{",
            "[",
        ),
    ],
)
def test_metrics_that_say_something_else_are_refused(capsys, run, old, new):
    path = run / "metrics.jsonl"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    refused(capsys, "metrics.jsonl")


# A head that was noted elsewhere.


def test_a_consistent_rewriting_shows_against_a_noted_head_alone(capsys, run):
    """The limit of a chain without a key: users and rate agree, and nothing else is left."""
    head = ledger.verify(run / "ledger.jsonl").head
    assert "noted head, with 0 entries after it" in accepted(capsys, "--head", head)
    removed(run, *EVIDENCE)
    users = {"declared_users": 120, "sampling_rate": 0.05, "epsilon_target": None}
    forgery.resealed(run, lambda entries: forgery.mechanism(entries, **users))
    accepted(capsys)
    check_refused(capsys, ["verify", "run", "--head", head], head, "roll-back", "fork")


def test_a_head_of_an_earlier_day_shows_what_came_since(capsys, run):
    entries = ledger.verify(run / "ledger.jsonl").entries
    out = accepted(capsys, "--head", entries[2]["hash"])
    assert "the noted head, with 2 entries after it" in out
    check_refused(capsys, ["verify", "run", "--head"], "--head")


def test_two_copies_that_both_went_on_are_a_fork(capsys):
    one = stopped("one", 2, "rounds=3")
    two = Path(shutil.copytree(one, "two"))
    for copy in (one, two):
        assert cli.main(["run", f"resume={copy}"]) == 0
    heads = [ledger.verify(copy / "ledger.jsonl").head for copy in (one, two)]
    assert heads[0] != heads[1]
    accepted(capsys, "--head", heads[0], run="one")
    check_refused(capsys, ["verify", "two", "--head", heads[0]], "two copies", "adds up")
    shutil.copy(one / "checkpoint" / "state.pt", two / "checkpoint" / "state.pt")
    removed(two, "privacy_statement.json")
    refused(capsys, "two copies of the run folder both went on (a fork)", run="two")


# The second opinion.


def test_a_second_opinion_below_what_is_certain_is_an_error(capsys, monkeypatch):
    out = accepted(capsys)
    [line] = [line for line in out.splitlines() if line.startswith("Second opinion")]
    told = float(line.partition("epsilon <= ")[2].partition(";")[0])
    assert stated(Path("run"))["epsilon_lower"] <= told <= 1.01 * stated(Path("run"))["epsilon"]
    monkeypatch.setattr(second_opinion, "epsilon", lambda *_, **__: 7.9)
    refused(capsys, "below our certified lower value")
