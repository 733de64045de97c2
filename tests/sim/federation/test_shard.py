"""Shards: the parts are the population, each user on one node; what cannot be cut is refused."""

from __future__ import annotations

import json
import shutil
import stat
import tracemalloc

import numpy as np
import pytest
import transformers

from helpers import small_world
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.data.sources import shard as shards
from userdp.sim.federation import node, shard, shard_check
from userdp.sim.inputs import corpus_loading
from userdp.sim.run import ledger_header

DESCRIBED = {"format": 1, "cut": "0" * 32, "part": 0, "parts": 2, "data_format": "x", "data": {},
             "words": []}  # fmt: skip
TEXTS = ["the cat sat", "on a mat", "my dog", "the old town", "run to the dog", "a cat saw my dog"]


class Letters:
    """A tokenizer of letters, by name so that nothing is cached for another."""

    def __call__(self, texts):
        return [list(text.encode()) for text in texts]

    name = "letters"


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mail(tmp_path, users=11, **extra):
    rows = [
        {"who": f"u{n % users}", "words": f"{TEXTS[n % 6]} {n}", "before": f"q{n}", **extra}
        for n in range(5 * users)
    ]
    return written(tmp_path / "mail.jsonl", rows)


def settings(*words):
    return hydra_compose.settings(["model=embedded", "model.seq_len=16", *words])[0]


def loaded(data, tmp_path, monkeypatch):
    """The corpus of settings under the embedded tokenizer's stand-in."""
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus_loading, "TokenizerEncode", lambda tokenizer: _Encode())
    return corpus_loading.load(data, None, 16)


class _Encode(Letters):
    def prompted(self, pairs):
        return [[-1 - byte for byte in p.encode()] + list(t.encode()) for p, t in pairs]

    def labelled(self, records, max_tokens):
        return [[*(-1 - b for b in f"{r.text}|{r.pair}".encode()), r.label] for r in records]


def users_of(population):
    return [
        (int(population.user_keys[user]), [record.tolist() for record in population.records(user)])
        for user in range(len(population))
    ]


CASES = {
    "by user": ["data.user=who", "data.text=words", "data.holdout=0.3"],
    "by record": ["data.user=who", "data.text=words", "data.split=record", "data.holdout=0.4"],
    "prompts": ["data.user=who", "data.text=words", "data.prompt=before", "data.holdout=0.3"],
    "no users": ["data.user=null", "data.text=words", "data.holdout=0.3"],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("nodes", [1, 3, 4])
def test_the_parts_are_every_nth_user_of_the_whole(case, nodes, tmp_path, monkeypatch):
    whole = settings("data=jsonl", f"data.path={mail(tmp_path)}", *CASES[case])
    shard.cut(whole, nodes, tmp_path / "cut")
    expected = loaded(whole.data, tmp_path, monkeypatch)
    everybody = users_of(expected.train)
    for part in range(nodes):
        data = settings(*node.data_words(tmp_path / "cut" / f"node-{part}")).data
        assert users_of(loaded(data, tmp_path, monkeypatch).train) == everybody[part::nodes]
    server = settings(*node.data_words(tmp_path / "cut" / "server")).data
    found = loaded(server, tmp_path, monkeypatch)
    assert len(found.train) == 0
    assert users_of(found.heldout) == users_of(expected.heldout)


def test_labels_and_pairs_come_through(tmp_path, monkeypatch):
    rows = [
        {"u": f"u{n % 7}", "a": TEXTS[n % 6], "b": f"second {n}", "y": ["no", "yes"][n % 2]}
        for n in range(40)
    ]
    words = ["data=jsonl", f"data.path={written(tmp_path / 'x.jsonl', rows)}", "data.user=u",
             "data.text=a", "data.text_pair=b", "data.label=y", "data.classes=[no,yes]",
             "data.holdout=0.3"]  # fmt: skip
    whole = settings(*words)
    shard.cut(whole, 2, tmp_path / "cut")
    everybody = users_of(loaded(whole.data, tmp_path, monkeypatch).train)
    for part in range(2):
        data = settings(*node.data_words(tmp_path / "cut" / f"node-{part}")).data
        assert (data.label, data.class_names) == ("y", ("no", "yes"))
        assert users_of(loaded(data, tmp_path, monkeypatch).train) == everybody[part::2]


SPEAKERS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("prompt", [[], ["data.prompt=asked"]])
def test_conversations_come_through_and_so_does_their_prompt(tmp_path, monkeypatch, prompt):
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    shutil.copytree(small_world.model(), tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = SPEAKERS
    tokenizer.save_pretrained(tmp_path / "model")
    asked, answer = {"role": "user", "content": "my dog"}, {"role": "assistant", "content": "no"}
    rows = [
        {
            "u": f"u{n % 20}",
            "asked": [asked, answer],
            "talk": [{**asked, "content": f"{n}"}, answer],
        }
        for n in range(40)
    ]
    words = ["data=jsonl", f"data.path={written(tmp_path / 'x.jsonl', rows)}", "data.user=u",
             "data.chat=talk", *prompt, "data.holdout=0.3", "model=local",
             f"model.path={tmp_path / 'model'}", "model.seq_len=16"]  # fmt: skip
    whole = settings(*words)
    shard.cut(whole, 2, tmp_path / "cut")
    everybody = users_of(corpus_loading.load(whole.data, tokenizer, 64).train)
    assert len(everybody) > 1
    for part in range(2):
        data = settings(*node.data_words(tmp_path / "cut" / f"node-{part}")).data
        found = corpus_loading.load(data, tokenizer, 64).train
        assert users_of(found) == everybody[part::2]


def test_a_generated_population_is_cut_as_it_is_generated(tmp_path, monkeypatch):
    whole = settings("data=synthetic", "data.users=60")
    users = shard.cut(whole, 3, tmp_path / "cut")
    everybody = users_of(loaded(whole.data, tmp_path, monkeypatch).train)
    assert users == len(everybody)
    for part in range(3):
        data = settings(*node.data_words(tmp_path / "cut" / f"node-{part}")).data
        assert users_of(loaded(data, tmp_path, monkeypatch).train) == everybody[part::3]
    assert f"privacy.users={users}" in shards.read(str(tmp_path / "cut" / "node-0")).words


def test_a_claim_describes_the_data_that_were_cut(tmp_path):
    words = ["data=jsonl", f"data.path={mail(tmp_path)}", *CASES["by record"], "data.seed=7"]
    whole = settings(*words)
    shard.cut(whole, 2, tmp_path / "cut")
    part = settings(*node.data_words(tmp_path / "cut" / "server"))
    described = [
        [s.data.described_format, s.data.seed, s.data.split]
        + [getattr(s.data, name) for name in ledger_header._PUBLIC_DATA]
        for s in (whole, part)
    ]
    assert described[0] == described[1]


def test_parts_of_one_cut_are_told_from_those_of_another(tmp_path):
    whole = settings("data=jsonl", f"data.path={mail(tmp_path)}", *CASES["by user"])
    found = []
    for name in ("one", "two"):  # of the same data
        shard.cut(whole, 2, tmp_path / name)
        places = sorted((tmp_path / name).iterdir())
        found.append({settings(*node.data_words(place)).data.origin.cut for place in places})
        assert len(places) == 3
    assert [len(cuts) for cuts in found] == [1, 1]
    assert found[0] != found[1]


def test_files_are_for_their_owner_alone(tmp_path):
    shard.cut(
        settings("data=jsonl", f"data.path={mail(tmp_path)}", *CASES["by user"]),
        2,
        tmp_path / "cut",
    )
    files = [path for path in (tmp_path / "cut").rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_no_shard_holds_a_record_of_another_part(tmp_path):
    whole = settings("data=jsonl", f"data.path={mail(tmp_path)}", *CASES["by user"])
    shard.cut(whole, 3, tmp_path / "cut")
    texts = [
        {json.loads(line)["text"] for line in path.read_text().splitlines()}
        for path in sorted((tmp_path / "cut").glob("*/records.jsonl"))
    ]
    assert len(set().union(*texts)) == sum(map(len, texts)) == 55


def test_bad_records_are_left_out_as_a_run_leaves_them_out(tmp_path, monkeypatch):
    path = mail(tmp_path)
    lines = path.read_text().splitlines()
    hostile = ["{", '{"who": null, "words": "x"}', '{"who": "u1", "words": ""}', "[1]",
               '{"who": "u2", "words": "half \\ud800"}', '{"who": true, "words": "x"}',
               json.dumps({"who": "new\u2028line", "words": "two\u2028lines\r"})]  # fmt: skip
    path.write_text("\n".join([*hostile[:3], *lines[:20], *hostile[3:], *lines[20:]]) + "\n")
    whole = settings("data=jsonl", f"data.path={path}", *CASES["by user"])
    shard.cut(whole, 2, tmp_path / "cut")
    everybody = users_of(loaded(whole.data, tmp_path, monkeypatch).train)
    found = [
        users_of(
            loaded(
                settings(*node.data_words(tmp_path / "cut" / f"node-{part}")).data,
                tmp_path,
                monkeypatch,
            ).train
        )
        for part in range(2)
    ]
    assert [found[n % 2][n // 2] for n in range(len(everybody))] == everybody


def test_what_cannot_be_cut_is_refused_by_name(tmp_path):
    whole = ["data=jsonl", f"data.path={mail(tmp_path)}", *CASES["by user"]]
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    with pytest.raises(ConfigurationError, match=r"output=.*holds files"):
        shard.cut(settings(*whole), 2, full)
    planted = settings(*whole, "data.canaries=3", "track.simulation_only=true")
    with pytest.raises(ConfigurationError, match=r"data\.canaries=3"):
        shard.cut(planted, 2, tmp_path / "a")
    shard.cut(settings(*whole), 2, tmp_path / "b")
    with pytest.raises(ConfigurationError, match="is a shard already"):
        shard.cut(settings(*node.data_words(tmp_path / "b" / "node-0")), 2, tmp_path / "c")
    for words in (["nodes=0", "output=x"], ["nodes=2"], ["nodes=2", "nodes=3", "output=x"]):
        with pytest.raises(ConfigurationError, match=r"nodes|output"):
            shard.main([*whole, *words])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:-1],  # a record is lost
        lambda lines: [*lines, lines[0]],  # a record is there twice
        lambda lines: [lines[1], lines[0], *lines[2:]],  # in another order
        lambda lines: [lines[0].replace("cat", "dog"), *lines[1:]],
    ],
)
def test_the_check_finds_what_is_not_what_was_written(spoil, tmp_path, monkeypatch):
    whole = settings("data=jsonl", f"data.path={mail(tmp_path, users=1)}", "data.user=who",
                     "data.text=words", "data.split=record", "data.holdout=0.2")  # fmt: skip
    checked = shard_check.check

    def check(folder, places, tally):
        file = places[0] / shards.RECORDS
        file.write_text("".join(spoil(file.read_text().splitlines(keepends=True))))
        checked(folder, places, tally)

    monkeypatch.setattr(shard_check, "check", check)
    with pytest.raises(ConfigurationError, match="not what was written"):
        shard.cut(whole, 1, tmp_path / "cut")


def test_the_check_finds_a_user_on_two_nodes(tmp_path, monkeypatch):
    class Forgetful(dict):
        def setdefault(self, user, slot):
            """A new slot for each record, not for each user."""
            self[len(self)] = user
            return len(self)

    made = shard._Cutter.__post_init__

    def forgetful(self):
        made(self)
        self.slots = Forgetful()

    monkeypatch.setattr(shard._Cutter, "__post_init__", forgetful)
    whole = settings("data=jsonl", f"data.path={mail(tmp_path)}", *CASES["by user"])
    with pytest.raises(ConfigurationError, match="a user is on two nodes"):
        shard.cut(whole, 3, tmp_path / "cut")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"format": 1}', "[" * 10**5,
     *(json.dumps({**DESCRIBED, **wrong})
       for wrong in ({"format": 2}, {"part": 2}, {"part": True}, {"data": []}, {"words": [1]},
                     {"cut": ""}, {"cut": 3}, {"cut": "A" * 32}, {"more": 1}))],
)  # fmt: skip
def test_a_damaged_description_is_refused_in_one_line(content, tmp_path):
    (tmp_path / shards.DESCRIPTION).write_text(content)
    with pytest.raises(ConfigurationError, match=r"data\.path=.*is damaged"):
        settings(*node.data_words(tmp_path))


@pytest.mark.parametrize(
    "data", [{"holdout": 2}, {"text": 3}, {"unknown": 1}, {"seed": "x"}, {"split": "other"}]
)
def test_a_description_with_wrong_settings_is_refused(data, tmp_path):
    values = {**DESCRIBED, "data": data}
    (tmp_path / shards.DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(ConfigurationError, match=r"data\.path="):
        settings(*node.data_words(tmp_path))


def test_a_node_takes_no_other_data_than_its_shard(tmp_path):
    whole = settings("data=jsonl", f"data.path={mail(tmp_path)}", *CASES["by user"])
    shard.cut(whole, 2, tmp_path / "cut", ["model.seq_len=8"])
    place = tmp_path / "cut" / "node-1"
    assert node.settings_of(place, []).model.seq_len == 8
    assert node.settings_of(place, ["model.seq_len=9"]).model.seq_len == 9
    for word in ("data=synthetic", "data.path=x", "+data.holdout=0.1"):
        with pytest.raises(ConfigurationError, match="what its data are"):
            node.settings_of(place, [word])


def test_words_of_data_and_folders_stay_with_the_command(tmp_path):
    model = small_world.model()
    words = ["data=jsonl", f"data.path={mail(tmp_path)}", *CASES["by user"], "model=local",
             f"model.path={model}", "rounds=3", "runtime.nodes=2", "track=jsonl"]  # fmt: skip
    shard.main([*words, "nodes=2", f"output={tmp_path / 'cut'}"])
    kept = shards.read(str(tmp_path / "cut" / "node-0")).words
    assert kept == ("model=local", f"model.path={model}", "rounds=3")


@pytest.mark.slow
def test_memory_grows_by_users_and_not_by_records(tmp_path):
    def peak(records):
        rows = ({"u": f"u{n % 10}", "t": f"{n} " + "word " * 20} for n in range(records))
        path = written(tmp_path / f"{records}.jsonl", rows)
        whole = settings("data=jsonl", f"data.path={path}", "data.user=u", "data.text=t",
                         "data.holdout=0.3")  # fmt: skip
        tracemalloc.start()
        shard.cut(whole, 2, tmp_path / f"cut-{records}")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # imports
    full = 3 * shard._FULL  # what waits for each part
    assert peak(20_000) < peak(5_000) + full  # the larger file holds 1.6 MB more


def test_keys_of_users_are_those_of_the_whole(tmp_path, monkeypatch):
    """The streams of a user are named by their key, so their draws are those of one process."""
    whole = settings("data=jsonl", f"data.path={mail(tmp_path)}", *CASES["no users"])
    shard.cut(whole, 2, tmp_path / "cut")
    keys = [
        loaded(
            settings(*node.data_words(tmp_path / "cut" / f"node-{part}")).data,
            tmp_path,
            monkeypatch,
        ).train.user_keys
        for part in range(2)
    ]
    expected = loaded(whole.data, tmp_path, monkeypatch).train.user_keys
    assert np.array_equal(np.sort(np.concatenate(keys)), np.sort(expected))
