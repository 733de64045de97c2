"""`userdp data`: what it says of data, at 80 columns, and that it keeps private figures back."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from helpers import small_world
from helpers.whole_runs import check_refused
from userdp.sim import cli
from userdp.sim.data import holdout

PEOPLE = 40


def mail(folder: Path) -> tuple[Path, list[dict[str, object]]]:
    """Rows of users with 1 to 7 records, some of them bad."""
    rows: list[dict[str, object]] = [
        {"sender": f"person {number}", "body": "word " * (record + 1), "score": record / 2}
        for number in range(PEOPLE)
        for record in range(1 + number % 7)
    ]
    rows += [{"sender": "person 1", "body": None, "score": 1.0}] * 3
    rows += [{"sender": "nobody else", "body": "  ", "score": 1.0}, {"sender": None, "body": "x"}]
    path = folder / "mail.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, rows


def described(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["data", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def base() -> list[str]:
    return ["model=local", f"model.path={small_world.model()}", "model.seq_len=8"]


def test_columns_and_settings_are_told_and_no_number_of_the_data(tmp_path, capsys):
    mail(tmp_path)
    out = described(capsys, "data=jsonl", "data.path=mail.jsonl")
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"sender +text\n", out)
    assert "userdp run data=jsonl data.path=mail.jsonl data.user=sender\n" in out
    assert "data.text=body" in out
    # All numbers of the output are constants of the program: rows, share held out, and no others.
    assert set(re.findall(r"\d[\d.,%]*", out)) == {"1,000", "0.1"}


def test_the_text_does_not_depend_on_how_much_there_is(tmp_path, capsys):
    """Twice the users, and other shares that are filled, print the same text."""
    path, rows = mail(tmp_path)
    first = described(capsys, "data=jsonl", "data.path=mail.jsonl")
    more = [{**row, "sender": f"{row['sender']} b"} for row in rows if row["sender"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more, rows[0]]))
    assert described(capsys, "data=jsonl", "data.path=mail.jsonl") == first


def test_private_figures_are_those_of_a_slow_count(tmp_path, capsys):
    _, rows = mail(tmp_path)
    words = ["data=jsonl", "data.path=mail.jsonl", "data.holdout=0.3", *base()]
    told = json.loads(described(capsys, *words, "track.simulation_only=true", "--json"))
    good = [row for row in rows if row["sender"] and str(row["body"] or "").strip()]
    by_user = defaultdict(list)
    for row in good:
        by_user[row["sender"]].append(row["body"])
    out = {user for user in by_user if holdout.user_held_out(0, str(user), 0.3)}
    assert 5 < len(out) < PEOPLE - 5
    for side, users in (("held_out", out), ("train", by_user.keys() - out)):
        counts = sorted(len(by_user[user]) for user in users)
        figures = told["simulation_only"][side]
        assert (figures["users"], figures["records"]) == (len(users), sum(counts))
        assert figures["records_per_user"][::7] == [counts[0], counts[-1]]
        middle = counts[int(np.ceil(len(counts) / 2)) - 1]
        assert figures["records_per_user"][3] == middle
    assert told["simulation_only"]["dropped"] == {
        "empty text": 4, "missing user": 1, "user left without records": 1,
    }  # fmt: skip
    shares = {column["name"]: column["share_filled"] for column in told["columns"]}
    filled = Counter(name for row in rows for name, value in row.items() if value not in (None, ""))
    assert shares == pytest.approx({name: n / len(rows) for name, n in filled.items()})


def test_private_figures_fit_80_columns(tmp_path, capsys):
    mail(tmp_path)
    words = ["data=jsonl", "data.path=mail.jsonl", "data.holdout=0.3", *base()]
    out = described(capsys, *words, "track.simulation_only=true")
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"dropped: 4 empty text, 1 missing user", out)


def test_an_invented_population_tells_its_public_size(capsys):
    out = described(capsys, "data.users=77")
    assert "77, invented from public settings" in out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # An object of clients, as one line, would give their names as columns.
        ("all.jsonl", json.dumps({f"ann{n}@example.com": [{"a": 1}] for n in range(5)})),
        ("all.jsonl", json.dumps({f"example {n}": "example" for n in range(60)})),
        ("all.csv", '{"sender": "example", "body": "example"}\n' * 9),
        ("all.csv", "ann@example,an example!\n" * 9),
    ],
)
def test_names_that_may_be_values_are_shown_nowhere(tmp_path, capsys, name, content):
    (tmp_path / name).write_text(content)
    words = [f"data={name[4:]}", f"data.path={name}"]
    for more in ([], ["--json"]):
        assert "example" not in described(capsys, *words, *more)
    assert "is data.format right" in " ".join(described(capsys, *words).split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data=jsonl"], ["data.path is missing"]),
        (["data=jsonl", "data.path=nowhere.jsonl"], ["data.path=nowhere.jsonl", "no such file"]),
        (["data=jsonl", "data.path=mail.jsonl", "data.format=parquet"], ["not a parquet file"]),
        (["--all"], ["--all: no such option", "--json"]),
        (["data=mail"], ["data/mail"]),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, told):
    mail(tmp_path)
    err = check_refused(capsys, ["data", *words], *told)
    assert "person" not in err
