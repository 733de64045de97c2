"""Whole classification runs, tiny: what they score and leave behind, and how a wrong one ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import tokenizers
import torch
import transformers

from helpers import neighbours, small_world, tiny, tiny_classes
from helpers.tiny_classes import CLASSES, FAMILIES
from userdp.sim import cli
from userdp.sim.tracking import metric_kinds

pytestmark = pytest.mark.slow  # whole runs

USERS = neighbours.USERS
LABELS = ["data.label=mood", "data.classes=[calm,wild]"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def moods(elsewhere) -> Path:
    """Texts of 30 users; those about a dog are wild."""
    path = elsewhere / "moods.jsonl"
    rows = [
        {**row, "mood": "wild" if "dog" in row["text"].split() else "calm", "so": "the cat"}
        for row in small_world.rows()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def encoder(elsewhere) -> Path:
    """A RoBERTa of a few thousand random weights that is a masked language model, without head."""
    folder = elsewhere / "encoder"
    made = transformers.AutoTokenizer.from_pretrained(small_world.model())
    made.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    made.backend_tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", made.eos_token_id), ("<s>", made.bos_token_id), add_prefix_space=False
    )
    made.save_pretrained(folder)
    config = transformers.RobertaConfig(
        vocab_size=len(made), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=made.pad_token_id + 1 + 24,
        type_vocab_size=1, initializer_range=0.2, bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def overrides(path: Path, *more: str) -> list[str]:
    return small_world.overrides(f"data.path={path}", "output=run", *LABELS, *more)


def ran(path: Path, *more: str) -> Path:
    assert cli.main(["run", *overrides(path, *more)]) == 0
    return Path("run")


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def loaded(folder: Path, base: Path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    return peft.PeftModel.from_pretrained(model, str(folder / "adapter")).eval()


def check_accuracy(folder: Path, base: Path, path: Path, held_out, pair: bool = False) -> None:
    """Against plain peft and the tokenizer's own call, on the file's own rows."""
    model, made = loaded(folder, base), transformers.AutoTokenizer.from_pretrained(base)
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if held_out(row)]
    right = []
    for row in rows:
        texts = (row["text"], row["so"]) if pair else (row["text"],)
        inputs = made(*texts, truncation=True, max_length=15, return_tensors="pt")
        with torch.no_grad():
            logits = model(input_ids=inputs["input_ids"]).logits
        right.append(["calm", "wild"][int(logits.argmax())] == row["mood"])
    last = logged(folder)[-1]
    assert last["summary/heldout_accuracy"] == pytest.approx(np.mean(right))
    share = np.mean([row["mood"] == "wild" for row in rows])
    assert last["summary/heldout_majority"] == pytest.approx(max(share, 1 - share))


def by_column(path: Path) -> Path:
    """The last third of the rows is the test split."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["split"] = "test" if number % 3 == 0 else "train"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SPLIT = ["data.split=column", "data.split_column=split"]


def test_a_run_scores_what_plain_peft_scores_with_its_folder(moods, capsys):
    folder = ran(by_column(moods), *SPLIT, "rounds=3", "eval_every=1", "optimizer.lr=0.05")
    check_accuracy(folder, small_world.model(), moods, lambda row: row["split"] == "test")
    out, err = capsys.readouterr()
    assert "held-out accuracy" in out
    assert "commonest class" in out
    assert "perplexity" not in out + err
    warning, *lines = err.splitlines()
    assert warning.startswith("userdp: warning: privacy.users=null")  # N is counted here
    assert all(line.startswith("round ") and "accuracy" in line for line in lines), err
    keys = {key.removeprefix("summary/") for row in logged(folder) for key in row}
    assert not [key for key in keys if "perplexity" in key]
    for key in keys:
        assert metric_kinds.kind(key) is not metric_kinds.Kind.SIMULATION_ONLY
    scores = [row["heldout_accuracy"] for row in logged(folder) if "heldout_accuracy" in row]
    assert len(scores) == 4
    card = (folder / "adapter" / "README.md").read_text()
    assert "held-out accuracy after" in card
    assert "AutoModelForSequenceClassification" in card
    assert '{"0": "calm", "1": "wild"}' in card
    assert cli.main(["verify", "run"]) == 0


def test_an_encoder_classifies_pairs(moods, encoder, capsys):
    options = ["data.text_pair=so", f"model.path={encoder}", "rounds=2"]
    folder = ran(by_column(moods), *SPLIT, *options)
    check_accuracy(folder, encoder, moods, lambda row: row["split"] == "test", pair=True)
    warning, *lines = capsys.readouterr().err.splitlines()
    assert warning.startswith("userdp: warning: privacy.users=null")
    assert all(line.startswith("round ") for line in lines)


def test_a_run_learns_classes_without_noise(moods):
    """Texts that end in the one word that matters."""
    rows = [json.loads(line) for line in moods.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["text"] = " ".join(row["text"].split()[:3]) + (" dog" if number % 2 else " cat")
        row["mood"] = "wild" if number % 2 else "calm"
    moods.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = ["privacy.reproducible=true", "rounds=30", "cohort=20", "optimizer.lr=0.01"]
    last = logged(ran(by_column(moods), *SPLIT, "strategy=non_private", *fixed))[-1]
    assert last["summary/heldout_loss"] < last["summary/heldout_loss_before"] - 0.2
    assert last["summary/heldout_accuracy"] > last["summary/heldout_majority"] + 0.2


def test_record_level_counts_every_record_and_says_so(moods):
    folder = ran(moods, "data.user=null", "strategy.records_per_user=1")
    told = json.loads((folder / "privacy_statement.json").read_text())
    rows = moods.read_text().splitlines()
    assert told["unit"] == "record"
    assert len(rows) * 0.4 < told["declared_users"] < len(rows)
    card = (folder / "adapter" / "README.md").read_text()
    assert "at record level" in card
    assert "user-level" not in card


def test_a_resumed_run_keeps_its_classes(moods, capsys):
    ran(moods, "rounds=1")
    assert cli.main(["run", "resume=run", "rounds=2", "data.classes=[wild,calm]"]) == 2
    assert "classes" in capsys.readouterr().err


@pytest.mark.parametrize(("mechanism", "bound"), neighbours.BOUNDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_user_moves_the_sum_by_more_than_the_bound(tmp_path, family, mechanism, bound):
    """Head and adapter together, through the whole client path."""
    for name in ("whole", *map(str, range(USERS))):
        (tmp_path / name).mkdir()
    moved = neighbours.distances(
        tmp_path,
        mechanism,
        tiny_classes.people(USERS),
        model=tiny_classes.classifier(family),
        max_tokens=21,
        cohort=tiny.everyone(USERS, None if bound == neighbours.CLIP else neighbours.K),
    )
    assert (moved <= bound * (1 + neighbours.ROUNDING)).all()
    assert moved.max() > 0.5 * bound


def test_the_sum_does_not_depend_on_the_number_of_nodes(tmp_path):
    runs = []
    for nodes in (1, USERS):
        folder = tmp_path / f"nodes{nodes}"
        folder.mkdir()
        run = tiny.federation(
            folder, neighbours.USER, tiny_classes.people(USERS), nodes=nodes, max_tokens=21,
            model=tiny_classes.classifier("roberta"), replay_seed=9,
        )  # fmt: skip
        runs.append(run.run(2))
    np.testing.assert_allclose(*runs, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["data.classes=null"], ["data.classes=[]", "data.label"]),
        (["data.classes=1"], ["data.classes=[0]", "two or more"]),
        (["data.classes=[a,a]"], ["data.classes=[a, a]", "each once"]),
        (["data.classes=[yes,1.5]"], ["data.classes", "should be"]),
        (["data.label=null"], ["data.classes", "data.label"]),
        (["data.label=tone"], ["data.label='tone'", "no such column", "mood"]),
        (["data.text_pair=more"], ["data.text_pair='more'", "no such column"]),
        (["data.prompt=so"], ["data.prompt='so'", "data.label='mood'"]),
        (["data.classes=2"], ["no training record", "label is none of data.classes"]),
        (["data.classes=2", "data.strict=true"], ["line 1", "label is none of data.classes"]),
        (["selection=random_chunk"], ["selection.rule=random_chunk", "data.label=mood", "longest"]),
        (["selection=high_perplexity"], ["selection.rule=high_perplexity", "random"]),
        (["selection=low_perplexity"], ["selection.rule=low_perplexity", "shortest"]),
        (["data.user=null", "data.split=record"], ["data.split='record'", "data.user=None"]),
        (["data=synthetic", "+data.label=mood"], ["data.label=mood", "no classes"]),
    ],
)
def test_a_wrong_configuration_is_one_line_and_leaves_nothing(moods, capsys, wrong, told):
    before = set(moods.parent.iterdir())
    arguments = wrong if "data=synthetic" in wrong else overrides(moods, *wrong)
    assert cli.main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("userdp: error: ")
    assert err.count("\n") == 1
    assert out == ""
    for part in told:
        assert part in err, err
    assert set(moods.parent.iterdir()) - before <= {moods.parent / "cache"}


@pytest.mark.parametrize(("seq_len", "fits"), [(24, True), (25, False)])
def test_an_encoder_has_fewer_positions_than_rows_of_its_table(
    moods, encoder, capsys, seq_len, fits
):
    options = [f"model.path={encoder}", f"model.seq_len={seq_len}", "rounds=1"]
    assert cli.main(["run", *overrides(moods, *options)]) == (0 if fits else 2)
    assert fits or "24 positions" in capsys.readouterr().err


def test_next_tokens_of_an_encoder_are_refused_as_before(encoder, capsys):
    assert cli.main(["run", *small_world.overrides(f"model.path={encoder}", "output=run")]) == 2
    assert "sees later ones" in capsys.readouterr().err


def test_a_model_of_token_types_takes_no_pairs(moods, elsewhere, capsys):
    folder = elsewhere / "bert"
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids"],
    )
    made.save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=6, intermediate_size=16, **shape)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    options = [f"model.path={folder}", "rounds=1"]
    assert cli.main(["run", *overrides(moods, *options, "data.text_pair=so")]) == 2
    assert "data.text_pair=so" in capsys.readouterr().err
    assert cli.main(["run", *overrides(moods, *options)]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_are_those_of_the_layout(family):
    shapes = dict(tiny_classes.classifier(family).layout.shapes)
    assert [s[0] for n, s in shapes.items() if n.endswith(("score.weight", "proj.weight"))][-1] == (
        CLASSES
    )
