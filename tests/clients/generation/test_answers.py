"""Answers to held-out prompts are those of plain peft; what is compared is what people wrote."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import peft
import pytest
import torch
import transformers

from helpers import small_world
from helpers.whole_runs import check_refused, logged, ran
from userdp.clients.evaluation import rouge
from userdp.clients.generation import answers
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import holdout
from userdp.sim.data.population import Population

LEARNT = ["strategy=non_private", "privacy.epsilon=null", "rounds=12", "cohort=20",
    "optimizer.lr=1", "model.lora.alpha=64"]  # fmt: skip
ASKED = ["data.prompt=ask", "rouge.records=5", "rouge.tokens=6", "privacy.users=60"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(small_world.model())


def questions(path: Path) -> list[dict[str, str]]:
    """Prompts of two to four words of the small world, and answers that are soon learned."""
    rows = [
        {
            "user_id": row["user_id"],
            "ask": " ".join(row["text"].split()[2 : 4 + number % 3]),
            "text": "a a a a" + " the" * (number % 3),
        }
        for number, row in enumerate(small_world.rows())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


# Prompt and answer of a record.


@pytest.mark.parametrize(
    ("record", "prompt", "answer"),
    [
        ([~5, ~6, 7, 8], [5, 6], [7, 8]),
        ([~5, 7, 8, ~9, 10], [5], [7, 8]),  # a conversation: the first turn that is learned
        ([5, 6], [], [5, 6]),
        ([~5, ~6], [5, 6], []),  # a prompt that fills model.seq_len
        ([~0, 0], [0], [0]),
        ([], [], []),
    ],
)
def test_the_answer_is_the_first_run_of_learned_tokens(record, prompt, answer):
    assert answers.split(np.array(record, np.int64)) == (prompt, answer)


def test_records_without_a_prompt_or_a_word_are_passed_over():
    encode = TokenizerEncode(tokenizer())
    pairs = [("the cat", "日本"), ("my dog", "sat on a mat"), ("old", "and my cat"), ("a", "b")]
    records = [encode(["no prompt"])[0], *encode.prompted(pairs)]
    heldout = Population.of({"one": records[:2], "two": records[2:]})
    found = answers.chosen(heldout, tokenizer(), seq_len=40, records=2, tokens=40)
    assert [one.text for one in found] == ["sat on a mat", "and my cat"]
    assert [one.prompt for one in found] == [tokenizer()(ask)["input_ids"] for ask, _ in pairs[1:3]]
    [cut] = answers.chosen(heldout, tokenizer(), seq_len=40, records=1, tokens=2)
    assert cut.answer == found[0].answer[:2]
    [cut] = answers.chosen(heldout, tokenizer(), seq_len=len(records[2]) - 3, records=1, tokens=40)
    assert cut.answer == found[0].answer[:-3]
    with pytest.raises(ConfigurationError, match=r"rouge\.records=2: within model\.seq_len=2"):
        answers.chosen(Population.of({"one": records[:2]}), tokenizer(), seq_len=2, **{
            "records": 2, "tokens": 40,
        })  # fmt: skip


# Whole runs.


def greedy(model, ids: list[int], count: int, end: int) -> list[int]:
    """Oracle: plain forward passes, a token at a time."""
    written: list[int] = []
    while len(written) < count:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax())
        if token == end:
            break
        written.append(token)
    return written


def f1(reference: list[str], words: list[str]) -> float:
    """Oracle: by recursion over the words, without a table."""

    def common(one: list[str], other: list[str]) -> int:
        if not one or not other:
            return 0
        if one[0] == other[0]:
            return 1 + common(one[1:], other[1:])
        return max(common(one[1:], other), common(one, other[1:]))

    return 2 * common(reference, words) / (len(reference) + len(words))


def scored_by_hand(model, rows: list[dict[str, str]], records: int, tokens: int) -> float:
    """Oracle: held-out rows in the order of their users, from the file and by plain peft."""
    plain, by_user = tokenizer(), {}
    for row in rows:
        by_user.setdefault(row["user_id"], []).append(row)
    found = []
    for row in (row for user in by_user.values() for row in user):
        asked = plain(row["ask"])["input_ids"]
        answer = [*plain(row["text"])["input_ids"], plain.eos_token_id][: 16 - len(asked)][:tokens]
        if answer and len(found) < records:
            wanted = plain.decode(answer, skip_special_tokens=True).lower().split()
            got = greedy(model, asked, len(answer), plain.eos_token_id)
            found.append(f1(wanted, plain.decode(got, skip_special_tokens=True).lower().split()))
    return float(np.mean(found))


def test_a_run_scores_answers_to_held_out_prompts(elsewhere, capsys):
    rows = questions(elsewhere / "asked.jsonl")
    run = ran("run", "data.path=asked.jsonl", *ASKED, *LEARNT)
    out, summary = capsys.readouterr().out, logged(run)[-1]
    base = transformers.AutoModelForCausalLM.from_pretrained(small_world.model())
    heldout = [row for row in rows if holdout.user_held_out(0, row["user_id"], 0.3)]
    before = scored_by_hand(base, heldout, 5, 6)
    after = scored_by_hand(
        peft.PeftModel.from_pretrained(base, str(run / "adapter")), heldout, 5, 6
    )
    assert before != after
    assert summary["summary/heldout_rouge_l_before"] == pytest.approx(before)
    assert summary["summary/heldout_rouge_l"] == pytest.approx(after)
    assert f"{before:.3f} before, {after:.3f} after" in out
    card = huggingface_hub.ModelCard.load(run / "adapter" / "README.md").data
    results = {one.metric_type: one.metric_value for one in card.eval_results}
    assert results["rouge_l"] == pytest.approx(after)
    assert cli.main(["verify", str(run)]) == 0


def test_a_run_that_cannot_score_answers_ends_well_and_says_why(elsewhere, capsys, monkeypatch):
    questions(elsewhere / "asked.jsonl")
    secret = "what a person wrote"

    def failing(*_):
        raise RuntimeError(secret)

    monkeypatch.setattr(answers, "mean_rouge_l", failing)
    run = ran("run", "data.path=asked.jsonl", *ASKED)
    told = "".join(capsys.readouterr())
    assert "No ROUGE-L is scored" in told
    assert secret not in told
    assert "summary/heldout_rouge_l" not in logged(run)[-1]


def test_without_the_question_nothing_is_scored(elsewhere):
    questions(elsewhere / "asked.jsonl")
    run = ran("run", "data.path=asked.jsonl", "data.prompt=ask", "rounds=1")
    assert not [name for line in logged(run) for name in line if "rouge" in name]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["rouge.records=5"], ["rouge.records=5 with data without prompts", "data.prompt"]),
        (["rouge.records=5", "data.label=text", "data.classes=2"], ["with data.label=text"]),
        (["rouge.records=-1"], ["rouge.records=-1"]),
        ([*ASKED, "data.path=russian.jsonl"], ["rouge.records=5: within model.seq_len=16"]),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(elsewhere, capsys, changes, told):
    rows = [{**row, "text": "да"} for row in questions(elsewhere / "asked.jsonl")]
    (elsewhere / "russian.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told_of = small_world.overrides("data.path=asked.jsonl", "output=run", *changes)
    check_refused(capsys, ["run", *told_of], *told)
    assert not (elsewhere / "run").exists()


def test_a_missing_package_is_refused_before_a_model_is_loaded(elsewhere, capsys, monkeypatch):
    questions(elsewhere / "asked.jsonl")
    monkeypatch.setattr(rouge, "_LIBRARY", "no_such_package")
    changes = ["data.path=asked.jsonl", "model.path=nowhere", *ASKED]
    check_refused(capsys, ["run", *small_world.overrides(*changes)], "rouge-score", "[rouge]")
