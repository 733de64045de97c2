"""Sources of files: a folder, a glob pattern, names with brackets."""

from __future__ import annotations

from helpers.corpora import ROWS, by_user, load, texts, write_jsonl


def test_a_folder_and_a_glob_read_all_files_and_names_may_hold_brackets(tmp_path):
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "part [1].jsonl", ROWS[:3])
    write_jsonl(tmp_path / "in" / "part [2].jsonl", ROWS[3:])
    for path in (tmp_path / "in", tmp_path / "in" / "*.jsonl"):
        assert texts(load(path, tmp_path).train) == by_user(ROWS)
