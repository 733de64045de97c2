"""A file of clients becomes lines, which the named data set reads."""

from __future__ import annotations

import json

import pytest

from userdp.analysis.datasets import by_client, download

CLIENTS = {
    "a1": [
        {"instruction": "add 1 and 1", "response": "2"},
        {"instruction": "hi", "response": "yo"},
    ],
    "b2": [{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}],
}


def test_each_record_becomes_a_line_with_its_client(tmp_path):
    (tmp_path / "all.json").write_text(json.dumps(CLIENTS))
    by_client.main([str(tmp_path / "all.json"), str(tmp_path / "all.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    assert rows == [
        *({"client": "a1", **row} for row in CLIENTS["a1"]),
        {"client": "b2", "messages": talk},
    ]


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": 1}', '{"a": [1]}'])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "all.json").write_text(content)
    with pytest.raises(download.SourceError):
        by_client.main([str(tmp_path / "all.json"), str(tmp_path / "all.jsonl")])
