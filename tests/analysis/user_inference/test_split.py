"""The divided file: who takes part, what is held back, and that the run attacks just these."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

from userdp.analysis.user_inference import split


def people(count: int = 40) -> dict[str, list[dict]]:
    """Users of 1 to 9 records, named and numbered."""
    return {
        f"u{user}": [{"user_id": f"u{user}", "text": f"{user} {i}"} for i in range(1 + user % 9)]
        for user in range(count)
    }


def test_half_of_the_users_take_part_and_all_have_half_of_their_texts_held_back():
    users = people(400)
    kept = split.divided(users, split.Options(least=5))
    sides = defaultdict(Counter)
    for row in kept:
        sides[row["user_id"]][row["split"]] += 1
    assert set(sides) == {user for user, rows in users.items() if len(rows) >= 5}
    assert all(side["test"] == len(users[user]) // 2 for user, side in sides.items())
    trained = {user for user, side in sides.items() if side["train"]}
    assert all(sides[user]["train"] == -(-len(users[user]) // 2) for user in trained)
    assert 0.38 < len(trained) / len(sides) < 0.62
    texts = [row["text"] for row in kept]
    assert len(texts) == len(set(texts))


def test_one_user_more_changes_nothing_for_the_others():
    users = people()
    fewer = {user: rows for user, rows in users.items() if user != "u8"}
    every = split.divided(users, split.Options(least=4))
    assert [row for row in every if row["user_id"] != "u8"] == split.divided(
        fewer, split.Options(least=4)
    )


def test_a_seed_decides_who_takes_part():
    users = people()
    first, again, other = (
        [
            row
            for row in split.divided(users, split.Options(least=4, seed=seed))
            if row["split"] == "train"
        ]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_command_writes_the_file_or_one_line_that_quotes_nothing(tmp_path, capsys):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [row for user in people().values() for row in user]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert split.main([str(source), str(target), "least=5"]) == 0
    written = [json.loads(line) for line in target.read_text().splitlines()]
    assert written == split.divided(people(), split.Options(least=5))
    source.write_text('{"secret": "quizzaciously"}\n')
    for words in ((str(source), str(target)), (str(source),), (str(tmp_path), str(target))):
        assert split.main(list(words)) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "quizzaciously" not in told
    assert split.main([str(source), str(target), "least=1"]) == 2
    assert "least" in capsys.readouterr().err
