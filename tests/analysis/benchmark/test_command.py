"""`userdp bench`: turns and ratios by hand, plain batches, real lengths, sides that do the same."""

from __future__ import annotations

import csv
import importlib.util
import json

import numpy as np
import pytest
import torch

from userdp.analysis.benchmark import cases, command, private_round, processes, summary
from userdp.analysis.benchmark.peers import loop
from userdp.analysis.benchmark.peers.work import IGNORED, Spec, Work, collate, record_losses
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError

TINY = {"layers": 2, "width": 16, "heads": 2, "vocabulary": 61, "rank": 2}
RAGGED = [[5, 9], [7], [3, 12, 4], [2]]
NAMES = ("users", "length", "layers", "width", "heads", "vocabulary", "rank")


def spec(**changes) -> Spec:
    lengths = changes.pop("lengths", RAGGED)
    return Spec(**{"users": 4, "records": 3, "length": 12, "lengths": lengths, **TINY, **changes})


class Fake:
    """A side that takes the seconds it is told to, and notes when it was asked."""

    def __init__(self, name: str, seconds: list[float], asked: list[str]) -> None:
        self.name, self.seconds, self.asked = name, iter(seconds), asked

    def ask(self, word: str) -> dict[str, object]:
        self.asked.append(f"{self.name} {word}")
        memory = {"peak_bytes": 10**6, "gpu_peak_bytes": None}
        return {"seconds": next(self.seconds), "tokens": 42, **memory}


def fake_turns() -> tuple[dict[str, list[dict]], list[str]]:
    asked: list[str] = []
    sides = {
        "round": Fake("round", [99.0, 2.0, 6.0, 4.0], asked),
        "plain": Fake("plain", [99.0, 4.0, 3.0, 8.0], asked),
    }
    return processes.turns(sides, 3), asked


def test_several_short_goes_make_one_turn_with_their_mean_time():
    left = [5.0, 1.0, 3.0]

    class Side:
        def ask(self, word):
            return {"seconds": left.pop(0), "word": word}

    turn = processes.Several(Side(), 3).ask("go")
    assert turn == {"seconds": 3.0, "word": "go"}
    assert left == []


def test_sides_take_turns_and_the_first_turn_does_not_count():
    answers, asked = fake_turns()
    assert asked == ["round go", "plain go"] * 4
    assert [turn["seconds"] for turn in answers["round"]] == [2.0, 6.0, 4.0]


def test_ratios_are_medians_of_what_each_turn_gives():
    answers, _ = fake_turns()
    told = summary.figures(answers, Work(spec()), None, {})["sides"]
    # by hand: 2/4, 6/3, 4/8; the ratio of the medians would be 1
    assert told["round"]["of_plain"] == {"median": 0.5, "least": 0.5, "most": 2.0}
    assert told["plain"]["of_round"] == {"median": 2.0, "least": 0.5, "most": 2.0}
    assert told["round"]["seconds"] == {"median": 4.0, "least": 2.0, "most": 6.0}
    assert told["plain"]["tokens_a_second"] == 42 / 4.0


def test_a_time_a_user_is_the_round_over_its_cohort():
    answers, _ = fake_turns()
    cohorts = {"2": answers["round"], "4": [{**turn, "seconds": turn["seconds"] + 1}
                                            for turn in answers["plain"]]}  # fmt: skip
    told = summary.cohort_figures(cohorts, {})
    assert told["cohorts"]["2"]["seconds_a_user"]["median"] == 2.0
    assert told["cohorts"]["4"]["seconds_a_user"]["median"] == 5.0 / 4
    assert told["cohorts"]["4"]["seconds_a_user_more"] == (5.0 - 4.0) / 2
    assert (told["spread_of_time"], told["spread_of_memory"]) == (1.6, 1.0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_of_a_plain_batch_is_the_mean_over_its_real_tokens(family):
    work = Work(spec(family=family))
    model, rows = work.plain(), work.rows()
    batch = collate(rows, "cpu")
    assert (batch["labels"] == IGNORED).sum() == len(rows) * 12 - sum(map(len, rows))
    with torch.no_grad():
        ids = [torch.from_numpy(row[None]).long() for row in rows]
        alone = [float(model(input_ids=row, labels=row).loss) for row in ids]
        together = float(model(**batch).loss)
        apart = record_losses(model, batch["input_ids"], batch["labels"])
    predicted = [len(row) - 1 for row in rows]
    assert together == pytest.approx(np.average(alone, weights=predicted), rel=1e-5)
    assert apart.tolist() == pytest.approx(alone, rel=1e-5)


def side_of(main, work: Work):
    found = []

    def serve(side):
        found.append(side.clipped_sum())

    main(work, serve)
    return found[0]


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3], ids=["all clipped", "none clipped"])
def test_a_loop_over_users_adds_up_to_the_clipped_sum_of_our_round(clip_norm):
    work = Work(spec(clip_norm=clip_norm))
    ours = side_of(private_round.user_wise, work)
    theirs = side_of(loop.main, work)
    assert np.linalg.norm(ours) > 0
    assert np.linalg.norm(theirs - ours) < 1e-5 * np.linalg.norm(ours)


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_opacus_adds_up_to_the_clipped_sum_of_our_round_over_records():
    opacus = pytest.importorskip("userdp.analysis.benchmark.peers.opacus")
    work = Work(spec(clip_norm=1e-3, batch=3))
    ours = side_of(private_round.group_privacy, work)
    theirs = side_of(opacus.main, work)
    assert np.linalg.norm(theirs - ours) < 1e-4 * np.linalg.norm(ours)


def test_pfl_adds_up_to_the_clipped_sum_of_our_round():
    pytest.importorskip("pfl")
    pfl = pytest.importorskip("userdp.analysis.benchmark.peers.pfl")
    work = Work(spec(clip_norm=1e-3))
    ours = side_of(private_round.user_wise, work)
    assert np.linalg.norm(side_of(pfl.main, work) - ours) < 1e-4 * np.linalg.norm(ours)


def test_two_processes_would_draw_the_same_work():
    one, other = Work(spec()), Work(Spec(**json.loads(json.dumps(spec().__dict__))))
    assert np.array_equal(one.tokens, other.tokens)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.base().parameters(), other.base().parameters(), strict=True)
    )


def mail(tmp_path):
    rows = [("ann", "One, two."), ("bob", "a"), ("ann", "x y z " * 9), ("cy", "hi there"),
            ("ann", "third one"), ("dee", "don't stop")]  # fmt: skip
    path = tmp_path / "mail.jsonl"
    path.write_text("".join(json.dumps({"user_id": u, "text": t}) + "\n" for u, t in rows))
    return path


def test_lengths_of_a_file_are_words_and_marks_cut_to_records_and_length(tmp_path):
    asked = cases.shape([f"lengths={mail(tmp_path)}", "users=3", "records=2", "length=10"])
    # ann: 4 and 27, her third record is one too many; bob's only text predicts nothing;
    # cy: 2; dee: don ' t stop
    assert cases.real_lengths(asked) == [[4, 10], [2], [4]]
    assert Work(cases.spec(asked)).counts.tolist() == [2, 1, 1]


def test_what_is_kept_of_a_shape_names_no_place_of_the_machine(tmp_path):
    asked = cases.shape([f"lengths={mail(tmp_path)}", "users=3", f"save={tmp_path}/x.csv"])
    told = cases.told(asked)
    assert told["lengths"] == f"{tmp_path.name}/mail.jsonl"
    assert str(tmp_path) not in json.dumps(told)


def test_a_case_is_a_start_that_other_options_change():
    asked = cases.shape(["case=one_by_32", "users=8", "sides=round,plain"])
    assert (asked.users, asked.records, asked.length) == (8, 1, 32)
    assert asked.sides == ["round", "plain"]


@pytest.mark.parametrize(
    ("options", "named"),
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
def test_what_cannot_be_measured_ends_in_one_line(options, named):
    with pytest.raises(ConfigurationError, match=named):
        command.main(options)


def test_a_csv_file_grows_by_a_row_for_each_side(tmp_path):
    answers, _ = fake_turns()
    told = summary.figures(answers, Work(spec()), None, {}) | {"shape": {"users": 4}}
    path = tmp_path / "kept" / "bench.csv"
    for _ in range(2):
        summary.append(str(path), told)
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["side"] for row in rows] == ["round", "plain"] * 2
    assert (rows[0]["of_plain_median"], rows[0]["seconds_most"]) == ("0.5", "6")
    assert json.loads(rows[1]["shape"]) == {"users": 4}


@pytest.mark.slow
def test_a_peer_that_is_not_installed_is_left_out_and_the_others_are_measured(capsys):
    tiny = ["users=4", "records=2", "length=6", "threads=1", "repeats=1", "batch=2"]
    shape = [f"{name}={value}" for name, value in TINY.items()]
    missing = [] if importlib.util.find_spec("pfl") else ["pfl"]
    sides = ",".join(["round", "plain", "loop", *missing])
    assert cli.main(["bench", *tiny, *shape, f"sides={sides}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["sides"]) == ["round", "plain", "loop"]
    assert told["sides"]["loop"]["sum_difference"] < 1e-5
    assert all(side["tokens_a_second"] > 0 for side in told["sides"].values())
    assert [line.split(" is left out")[0] for line in told["left_out"]] == missing
