"""Speeches of a play in the HTML of its source, and the rows that are made of them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from userdp.analysis.datasets import download, holding_out, shakespeare

# Of Henry IV, part 1, act 2, scene 2, which is in the public domain; the chorus is added.
PLAY = """<html><body><table><tr><td><a href="/Shakespeare">Shakespeare homepage</A></table>
<h3>SCENE II. The highway, near Gadshill.</h3>
<p><blockquote>
<i>Enter PRINCE HENRY and POINS</i>
</blockquote>

<A NAME=speech1><b>POINS</b></a>
<blockquote>
<A NAME=2.2.1>Come, shelter, shelter: I have removed Falstaff's</A><br>
<A NAME=2.2.2>horse, and he frets like a gummed velvet.</A><br>
</blockquote>

<A NAME=speech33><b>First Traveller</b></a>
<blockquote>
<A NAME=2.2.74>Come, neighbour: the boy shall lead our horses down</A><br>
<A NAME=2.2.75>the hill; we'll walk afoot awhile, and ease our legs.</A><br>
</blockquote>

<A NAME=speech2><b>All</b></a>
<blockquote>
<A NAME=2.2.0>Stand!</A><br>
</blockquote>

<A NAME=speech41><b>FALSTAFF</b></a>
<blockquote>
<A NAME=2.2.91>Come, my masters, let us share, and then to  horse</A><br>
<p><i>They whistle</i></p>
<A NAME=2.2.92>before day. An the Prince and Poins be not two</A><br>
<A NAME=2.2.93>arrant cowards, there's no equity stirring: there's</A><br>
<A NAME=2.2.94>no more valour in that Poins than in a wild-duck.</A><br>
<p><i>Exeunt</i></p>
</blockquote>
"""
ROWS = [
    (
        "1henryiv:POINS",
        "Come, shelter, shelter: I have removed Falstaff's\n"
        "horse, and he frets like a gummed velvet.",
    ),
    (
        "1henryiv:FIRST TRAVELLER",
        "Come, neighbour: the boy shall lead our horses down\n"
        "the hill; we'll walk afoot awhile, and ease our legs.",
    ),
    (
        "1henryiv:FALSTAFF",
        "Come, my masters, let us share, and then to horse\n"
        "before day. An the Prince and Poins be not two\n"
        "arrant cowards, there's no equity stirring: there's\n"
        "no more valour in that Poins than in a wild-duck.",
    ),
]
SHARED = Path(os.environ.get("USERDP_SHARED", Path(__file__).parents[4] / "shared")) / "data"


def archive(folder: Path) -> Path:
    path = folder / "plays.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name in ("shakespeare-6b82/tempest", "shakespeare-6b82/1henryiv"):
            content = PLAY.encode("latin-1")
            member = tarfile.TarInfo(f"{name}/full.html")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def test_a_speech_is_a_heading_and_its_lines_without_directions_and_choruses():
    assert [(r["user_id"], r["text"]) for r in shakespeare.speeches("1henryiv", PLAY)] == ROWS


def test_the_rows_of_a_real_scene_are_those_of_the_docs_results():
    path = SHARED / "shakespeare_roles" / "data.jsonl"
    if not path.exists():
        pytest.skip("needs the shared data")
    real = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(row["user_id"], row["text"]) for row in real} >= set(ROWS)
    assert download.digest(real) == shakespeare.DIGEST


def test_an_archive_becomes_a_file_in_the_order_of_the_plays(tmp_path, capsys):
    shakespeare.main([str(tmp_path), "--source", str(archive(tmp_path))])
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert [row["user_id"] for row in rows] == [
        *(user for user, _ in ROWS),
        *(user.replace("1henryiv", "tempest") for user, _ in ROWS),
    ]
    assert {row["split"] for row in rows} == {"train"}  # each role has one record
    out = capsys.readouterr().out
    assert "6 users, 6 records" in out
    assert "NOT the users and texts" in out


def test_a_source_without_a_play_is_told(tmp_path):
    with pytest.raises(download.SourceError, match=r"no full\.html"):
        shakespeare.main([str(tmp_path / "out"), "--source", str(tmp_path)])


def test_a_tenth_of_a_users_records_is_test_and_never_all_of_them():
    rows = [
        {"user_id": f"u{user}", "text": str(record)}
        for user in range(400)
        for record in range(1 + user % 12)
    ]
    split = list(holding_out.with_split(rows))
    assert [{**row, "split": None} for row in split] == [{**row, "split": None} for row in rows]
    trains = {row["user_id"] for row in split if row["split"] == "train"}
    assert len(trains) == 400
    share = sum(row["split"] == "test" for row in split) / len(split)
    deviation = (0.1 * 0.9 / len(split)) ** 0.5
    assert abs(share - 0.1) < 4 * deviation < abs(share - 0.15)
    others = [row for row in rows if row["user_id"] != "u7"]
    assert list(holding_out.with_split(others)) == [r for r in split if r["user_id"] != "u7"]
