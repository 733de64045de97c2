"""A run that has ended writes texts, a data set with its claim, and a repository of the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import peft
import pytest
import transformers

from helpers import quantized, small_world
from helpers.whole_runs import check_refused, ran, stated
from userdp.clients.generation import sampling
from userdp.clients.generation.sampling import Sampling
from userdp.clients.tokenization import prompts as prompt_ids
from userdp.server.statement import data_set_card, prose
from userdp.sim import cli
from userdp.sim.data import holdout
from userdp.sim.saved_run import generate, push

OLD = Path(__file__).parents[2] / "old_runs"
LOUD = ["privacy.epsilon=null", "privacy.noise_multiplier=0.01", "optimizer.lr=3", "rounds=3"]
PROMPTS = 'samples.prompts=["the cat", "my old dog"]'


@pytest.fixture(scope="module", autouse=True)
def cache():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache) -> Path:
    """A run whose noise has moved the adapter far from nothing."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return ran(folder, "privacy.users=60", PROMPTS, *LOUD)


@pytest.fixture
def run(finished, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Path(shutil.copytree(finished, "run"))


def asked(*words: str) -> None:
    assert cli.main(["generate", *words]) == 0


def plain(run: Path):
    """Oracle: base and adapter as anybody loads them, and the tokenizer of the base model."""
    base = transformers.AutoModelForCausalLM.from_pretrained(small_world.model())
    model = peft.PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    return model, transformers.AutoTokenizer.from_pretrained(small_world.model())


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# The closing samples.


def test_a_run_writes_as_many_samples_as_asked_for_and_verify_covers_them(run, capsys):
    rows = written(run / "samples.jsonl")
    assert [row["prompt"] for row in rows] == ["the cat", "my old dog", "the cat"]
    assert any(row["base"] != row["adapter"] for row in rows)
    assert "samples.jsonl" in stated(run)["files"]
    assert cli.main(["verify", "run"]) == 0
    capsys.readouterr()
    (run / "samples.jsonl").write_text("{}\n")
    check_refused(
        capsys, ["verify", "run"], "samples.jsonl is not the file that this run published"
    )


@pytest.mark.slow
def test_samples_that_the_statement_does_not_name_are_refused(run, capsys):
    facts = stated(run)
    del facts["files"]["samples.jsonl"]
    (run / "privacy_statement.json").write_text(json.dumps(facts))
    check_refused(capsys, ["verify", "run"], "samples.jsonl: the statement names no such file")


def test_the_samples_are_those_of_the_files_under_the_runs_seed(run):
    model, tokenizer = plain(run)
    rows = written(run / "samples.jsonl")
    from userdp.sim.common import rng

    seed = int(rng.generator(0, "samples").integers(2**63))
    drawn = Sampling(tokens=40, temperature=0.8, top_p=0.95, seed=seed)
    ids = [prompt_ids.ids(tokenizer, row["prompt"]) for row in rows]
    texts = sampling.continuations(
        model.get_base_model(), ids, drawn, stops={tokenizer.eos_token_id}
    )
    assert [row["adapter"] for row in rows] == [tokenizer.decode(row) for row in texts]


def test_the_closing_lines_show_base_beside_adapter(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    ran(tmp_path / "run", "privacy.users=60", "samples.prompts=[the cat]", "samples.count=1")
    out = capsys.readouterr().out
    block = out[out.index("samples, after public prompts") : out.index("\noutcome")].splitlines()
    assert out.splitlines()[-1] == prose.claim(stated(tmp_path / "run"))  # which has the last word
    assert block[1].split("  ")[0] == "base model"
    assert block[2] == "> the cat"
    assert max(map(len, block)) <= 80


@pytest.mark.slow
def test_no_samples_where_none_are_asked_for(tmp_path, capsys):
    folder = ran(tmp_path / "run", "privacy.users=60", "samples.count=0")
    assert "samples, after" not in capsys.readouterr().out
    assert not (folder / "samples.jsonl").exists()


@pytest.mark.slow
def test_a_model_that_cannot_write_costs_a_line_and_no_run(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("quotes a record")

    monkeypatch.setattr("userdp.clients.generation.side_by_side.continuations", broken)
    folder = ran(tmp_path / "run", "privacy.users=60")
    err = capsys.readouterr().err
    assert "No samples are written" in err
    assert "RuntimeError at " in err
    assert "quotes a record" not in err
    assert stated(folder)["private"]
    assert cli.main(["verify", str(folder)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("simulation", [False, True])
def test_a_private_record_as_prompt_is_refused_before_a_round_but_in_simulations(
    tmp_path, capsys, simulation, held_out
):
    row = next(
        row
        for row in small_world.rows()
        if holdout.user_held_out(0, row["user_id"], 0.3) == held_out
    )
    prompt = " ".join(row["text"].split()[:6])
    asked_for = [f"samples.prompts=[{prompt}]", f"track.simulation_only={simulation}".lower()]
    words = ["run", *small_world.overrides(f"output={tmp_path / 'run'}", *asked_for)]
    if simulation or held_out:
        assert cli.main(words) == 0
        return
    err = check_refused(capsys, words, "samples.prompts: prompt 1 is the text of a private record")
    assert prompt not in err
    assert row["user_id"] not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (f"samples.prompts=[{'the cat ' * 40}]", "samples.prompts: prompt 1: it has"),
        ("samples.prompts=[a,a]", "a prompt is there twice"),
        ("samples.prompts=['a\\${b}']", "samples.prompts.0=a${b}: cannot be resolved"),
        ("samples.tokens=0", "samples.tokens=0: should be at least 1"),
        ("samples.top_p=0", "samples.top_p=0: should be above 0"),
    ],
)
def test_wrong_samples_are_refused_before_a_round(tmp_path, capsys, option, told):
    words = small_world.overrides(f"output={tmp_path / 'run'}", option)
    check_refused(capsys, ["run", *words], told)
    assert not (tmp_path / "run").exists()


# userdp generate.


def test_generate_prints_what_the_files_write(run, capsys):
    asked("run", "the cat", "--temperature", "0", "--max-tokens", "9", "--seed", "1")
    out = capsys.readouterr().out
    model, tokenizer = plain(run)
    ids = [prompt_ids.ids(tokenizer, "the cat")]
    greedy = Sampling(tokens=9, temperature=0)
    stops = {tokenizer.eos_token_id}
    [adapter] = sampling.continuations(model.get_base_model(), ids, greedy, stops=stops)
    with model.disable_adapter():
        [base] = sampling.continuations(model.get_base_model(), ids, greedy, stops=stops)
    assert base != adapter
    shown = "".join(out.split())
    for row in (base, adapter):
        words = re.findall(r"[A-Za-z]+", tokenizer.decode(row))
        assert all(word in shown for word in words)
    assert "seed 1" in out
    assert prose.claim(stated(run)) in out


@pytest.mark.slow
def test_a_seed_repeats_what_generate_prints_and_none_draws_afresh(run, capsys):
    shown = []
    for words in (["--seed", "7"], ["--seed", "7"], [], []):
        asked("run", "the cat", "--count", "2", *words)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert len(set(shown)) == 3


@pytest.mark.slow
def test_prompts_come_from_words_a_file_or_the_run(run, capsys):
    Path("prompts.txt").write_text("one\n\ntwo\n")
    Path("prompts.jsonl").write_text('{"prompt": "three\\nlines"}\n')
    for words, told in (
        (["a b", "--prompts", "prompts.txt"], ["> a b", "> one", "> two"]),
        (["--prompts", "prompts.jsonl"], ["> three", "> lines"]),
        ([], ["> the cat", "> my old dog"]),
        (["--count", "1", ""], ["> (the beginning of a text)"]),
    ):
        asked("run", *words, "--max-tokens", "2")
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith("> ")] == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere: no run is there"),
        ([], "generate: the following arguments are required: run"),
        (["run", "--count", "0"], "generate: count=0: should be at least 1"),
        (["run", "--count", "x"], "invalid int value: 'x'"),
        (["run", "--top-p", "2"], "generate: top_p=2.0: should be above 0"),
        (["run", "--temperatur", "2"], "unrecognized arguments: --temperatur"),
        (["run", "--prompts", "absent.txt"], "--prompts absent.txt: FileNotFoundError"),
        (["run", "the cat", "--chat"], "the model's tokenizer has no chat template"),
        (["run", "the cat " * 50], "generate: prompt 1: it has"),
        (["run", "--base", "nowhere"], "--base=nowhere: there is no such folder"),
    ],
)
def test_a_wrong_command_is_one_line(run, capsys, words, told):
    check_refused(capsys, ["generate", *words], told)


def test_a_base_model_that_moved_is_named(run, capsys):
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace(str(small_world.model()), "/gone"))
    check_refused(
        capsys, ["generate", "run"], "model.path=/gone: there is no such folder", "--base"
    )
    asked("run", "--base", str(small_world.model()), "--max-tokens", "2")


def test_a_run_that_has_not_ended_writes_nothing(run, capsys):
    Path("run/privacy_statement.json").unlink()
    check_refused(capsys, ["generate", "run"], "the run has not ended", "resume=run")


# The data set.


def test_a_data_set_has_the_adapters_texts_and_a_card_with_the_runs_claim(run, capsys):
    asked("run", "the cat", "a|b", "--count", "70", "--jsonl", "out.jsonl", "--seed", "5")
    rows, card = written(Path("out.jsonl")), Path("out.card.md").read_text()
    assert [row["prompt"] for row in rows] == ["the cat", "a|b"] * 35
    model, tokenizer = plain(run)
    ids = [prompt_ids.ids(tokenizer, row["prompt"]) for row in rows]
    texts = sampling.continuations(
        model.get_base_model(), ids, Sampling(tokens=64, seed=5), stops={tokenizer.eos_token_id}
    )
    assert [row["text"] for row in rows] == [tokenizer.decode(text) for text in texts]
    facts = stated(run)
    assert prose.claim(facts, data_set_card.SUBJECT) in card
    assert prose.claim(facts).removeprefix("This adapter") in card
    cells = dict(re.findall(r"^\| (.+?) \| (.*) \|$", card, flags=re.MULTILINE))
    for name in ("epsilon", "delta", "declared_users"):
        assert json.loads(cells[name]) == facts[name]
    assert cells["sha256"] == hashlib.sha256(Path("out.jsonl").read_bytes()).hexdigest()
    assert json.loads(cells["seed"]) == 5
    assert f"- {data_set_card._NOT_COVERED[0]}" in card
    assert str(Path.home()) not in card


@pytest.mark.slow
def test_a_data_set_is_read_as_records(run):
    """It is an input of a further run, with its prompts."""
    from userdp.sim.data.records import Columns, content
    from userdp.sim.data.sources.base import Row

    asked("run", "the cat", "--jsonl", "out.jsonl", "--seed", "5")
    columns = Columns(user=None, text="text", prompt="prompt")
    for row in written(Path("out.jsonl")):
        assert content(Row("", row), columns, None) == ("the cat", row["text"])


@pytest.mark.slow
@pytest.mark.parametrize("file", ["adapter/adapter_model.safetensors", "adapter/README.md"])
def test_no_data_set_of_an_adapter_that_its_statement_does_not_name(run, capsys, file):
    path = run / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    check_refused(capsys, ["generate", "run", "--jsonl", "out.jsonl"], "is not the file that this")
    assert not Path("out.jsonl").exists()
    assert not Path("out.card.md").exists()


@pytest.mark.slow
def test_no_data_set_of_a_run_whose_version_bound_no_files(run, capsys):
    facts = stated(run)
    facts["files"] = {}
    (run / "privacy_statement.json").write_text(json.dumps(facts))
    check_refused(
        capsys, ["generate", "run", "--jsonl", "out.jsonl"], "the statement names no such"
    )


@pytest.mark.slow
def test_a_run_of_an_older_version_writes_texts_and_no_data_set(tmp_path, monkeypatch, capsys):
    shutil.copytree(OLD, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    check_refused(
        capsys, ["generate", "user_wise", "--jsonl", "out.jsonl"], "is not bound to a state"
    )
    assert not Path("out.jsonl").exists()
    asked("user_wise", "a b", "--max-tokens", "3")
    assert "> a b" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["strategy=non_private", "privacy.epsilon=null"], "# NOT PRIVATE: "),
        (["privacy.reproducible=true"], "# NOT PRIVATE: "),
        (["track.simulation_only=true"], "# SIMULATION ONLY: "),
    ],
)
def test_a_data_set_that_no_claim_covers_says_so_first(tmp_path, capsys, options, first):
    folder = ran(tmp_path / "run", "privacy.users=60", *options)
    asked(str(folder), "--jsonl", str(tmp_path / "out.jsonl"))
    card = (tmp_path / "out.card.md").read_text()
    assert card.startswith(first)
    assert prose.claim(stated(folder), data_set_card.SUBJECT) in card
    asked(str(folder), "a", "--max-tokens", "2")
    out = capsys.readouterr().out
    assert ("no epsilon covers them" in out) == first.startswith("# SIM")
    assert ("NOT PRIVATE" in out) == first.startswith("# NOT")


# The adapter's folder, as a stranger finds it.

CHAT = (
    "{% for m in messages %}{{ m['role'][0] }}: {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def embedded_run(tmp_path, monkeypatch) -> Path:
    """As `model=embedded` runs, with the small world's model in the embedded one's place."""
    from userdp.clients.models import embedded

    monkeypatch.setattr(embedded, "ensure", lambda *_, **__: small_world.model())
    words = small_world.overrides(f"output={tmp_path / 'run'}", "model=embedded")
    words = [word for word in words if not word.startswith(("model=local", "model.path="))]
    assert cli.main(["run", *words, "privacy.users=60"]) == 0
    return tmp_path / "run"


def snippet(run: Path, place: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run the card's code as a program of its own, in a folder of one's own."""
    card = (run / "adapter" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]
    assert code.count("path/of/this/folder") == 1
    code = code.replace("path/of/this/folder", str(folder))
    place.mkdir(exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def no_place_of_this_machine(adapter: Path) -> None:
    for path in (path for path in adapter.rglob("*.json") if path.is_file()):
        text = path.read_text()
        assert str(small_world.folder()) not in text, path
        assert str(Path.home()) not in text, path


@pytest.mark.slow
def test_the_snippet_of_an_embedded_base_needs_the_folder_alone(tmp_path, monkeypatch):
    run = embedded_run(tmp_path, monkeypatch)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "userdp/embedded"
    no_place_of_this_machine(run / "adapter")
    moved = Path(shutil.copytree(run / "adapter", tmp_path / "elsewhere"))
    assert "Once upon" in snippet(run, tmp_path / "place", moved).stdout
    monkeypatch.undo()
    asked(str(run), "the cat", "--max-tokens", "2")  # from the copy of its base
    assert cli.main(["verify", str(run)]) == 0
    shutil.rmtree(run / "adapter" / "base")
    assert cli.main(["generate", str(run)]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "int8", "chat"])
def test_the_snippet_of_a_local_base_needs_that_folder_by_its_name(tmp_path, kind):
    options = ["privacy.users=60"]
    model = Path(shutil.copytree(small_world.model(), tmp_path / "models" / "my-model"))
    if kind == "int8":
        quantized.library("torchao")
        model = Path(shutil.copytree(quantized.llama(), tmp_path / "models" / "my-llama"))
        options.append("model.quantize=int8")
    if kind == "chat":
        (model / "chat_template.jinja").write_text(CHAT)
        rows = [
            {
                "user_id": row["user_id"],
                "chat": [
                    {"role": "user", "content": "my dog"},
                    {"role": "assistant", "content": row["text"]},
                ],
            }
            for row in small_world.rows()
        ]
        path = tmp_path / "chat.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options += [f"data.path={path}", "data.chat=chat", "samples.prompts=[my dog]"]
        options += ["model.seq_len=32", "samples.tokens=4"]
    run = ran(tmp_path / "run", f"model.path={model}", *options)
    no_place_of_this_machine(run / "adapter")
    moved = Path(shutil.copytree(run / "adapter", tmp_path / "elsewhere"))
    out = snippet(run, tmp_path / "models", moved).stdout
    assert ("u: Hello a: " if kind == "chat" else "Once upon") in out
    if kind == "chat":
        saved = transformers.AutoTokenizer.from_pretrained(moved)
        assert saved.chat_template == CHAT
    asked(str(run), "the cat", "--max-tokens", "2")


@pytest.mark.slow
def test_the_snippet_of_a_base_of_the_hub_names_it(tmp_path, monkeypatch):
    """A folder of the name stands in for the hub, from which nothing is fetched here."""
    place = tmp_path / "place"
    shutil.copytree(small_world.model(), place / "owner" / "base-model")
    monkeypatch.chdir(place)
    words = ["model=hub", "model.path=owner/base-model", "privacy.users=60"]
    run = ran(tmp_path / "run", *words)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/base-model"
    no_place_of_this_machine(run / "adapter")
    assert "Once upon" in snippet(run, place, run / "adapter").stdout
    asked(str(run), "the cat", "--max-tokens", "2")


# userdp push.


class StandIn:
    """The calls of `huggingface_hub.HfApi` that are used, of a repository with an older file."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple] = []
        self._error = error

    def create_repo(self, name, *, private, exist_ok):
        if self._error:
            raise self._error
        self.calls.append(("create", name, private, exist_ok))

    def list_repo_files(self, name):
        return [".gitattributes", "adapter_model.bin", "README.md"]

    def create_commit(self, name, operations, *, commit_message):
        self.calls.append(("commit", name, operations))


def test_push_sends_adapter_and_evidence_in_one_commit(run, capsys):
    api = StandIn()
    push.main(["run", "me/mine"], ["--private"], api)
    (_, *created), (_, name, operations) = api.calls
    assert created == ["me/mine", True, True]
    assert name == "me/mine"
    added = {
        one.path_in_repo: Path(one.path_or_fileobj).read_bytes()
        for one in operations
        if isinstance(one, huggingface_hub.CommitOperationAdd)
    }
    adapter = {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}
    beside = ("privacy_statement.json", "ledger.jsonl", "samples.jsonl")
    assert added == {**adapter, **{one: (run / one).read_bytes() for one in beside}}
    gone = [
        o.path_in_repo for o in operations if isinstance(o, huggingface_hub.CommitOperationDelete)
    ]
    assert gone == ["adapter_model.bin"]
    assert "private repository: https://huggingface.co/me/mine" in capsys.readouterr().out


def test_a_dry_run_sends_nothing(run, capsys, monkeypatch):
    monkeypatch.setattr(push, "_api", None)
    assert cli.main(["push", "run", "me/mine", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "adapter_model.safetensors" in out
    assert prose.claim(stated(run)) in out
    assert "dry run: nothing was sent to the public repository me/mine" in out


@pytest.mark.slow
def test_a_run_that_does_not_verify_is_not_pushed(run, capsys):
    path = run / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    check_refused(capsys, ["push", "run", "me/mine", "--dry-run"], "is not the file that this run")


@pytest.mark.slow
def test_what_is_not_private_is_pushed_only_on_demand(tmp_path, capsys):
    folder = ran(tmp_path / "run", "strategy=non_private", "privacy.epsilon=null")
    capsys.readouterr()
    words = ["push", str(folder), "me/mine", "--dry-run"]
    check_refused(capsys, words, "it is NOT PRIVATE", "--allow-not-private")
    assert cli.main([*words, "--allow-not-private"]) == 0
    assert "NOT PRIVATE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["run"], ["run", "no-owner"], ["run", "a/b", "c"], ["run", "../x/y"]]
)
def test_push_needs_a_run_and_a_repository(run, capsys, words):
    check_refused(capsys, ["push", *words], "name a run folder and a repository, OWNER/NAME")


@pytest.mark.slow
def test_a_refusal_of_the_hub_is_one_line_without_its_text(run):
    error = RuntimeError("https://secret")
    error.response = SimpleNamespace(status_code=403)
    with pytest.raises(push.ConfigurationError) as caught:
        push.main(["run", "me/mine"], [], StandIn(error))
    assert "RuntimeError, status 403" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_classification_writes_no_text(run, capsys):
    """Refused by name, before a model is loaded: see the run's own label column."""
    import yaml

    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["data"]["label"] = "mood"
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    check_refused(capsys, ["generate", "run"], "data.label=mood", "classifies texts")
    assert generate.parsed(["run", "-5", "--", "--x"])[1].prompt == ("-5", "--x")
