"""Books as lines of text, the files that are made of them, and a model that is trained on them."""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path

import pytest
import torch
import transformers

from userdp.analysis.datasets import base_model, download, novels

PROSE = "The old town lay on a hill above the river, and nobody had ever counted its stairs. " * 6


def wrapped(*paragraphs: str) -> str:
    return "\n\n".join("\n".join(textwrap.wrap(text, 70)) for text in paragraphs)


def test_a_wrapped_book_is_joined_into_its_paragraphs():
    told = [PROSE.strip(), "CHAPTER II", PROSE.strip().replace("hill", "rock")]
    lines = [textwrap.wrap(text, 70)[-1] for text in told]
    assert all(len(line) < 0.8 * 70 for line in lines)  # so that the rule can see where each ends
    assert novels.paragraphs("\ufeff" + wrapped(*told)) == told


def test_a_book_of_a_line_a_paragraph_stays_as_it_is_but_for_spaces():
    assert novels.paragraphs(f"{PROSE}\n\n  {PROSE}\nshort   line\n") == [
        *[PROSE.strip()] * 2,
        "short line",
    ]
    assert novels.paragraphs("") == []


def books(folder: Path) -> Path:
    for name in (*novels.TRAIN, *novels.HELD_OUT):
        (folder / "corpus").mkdir(parents=True, exist_ok=True)
        (folder / "corpus" / f"{name}.txt").write_text(f"{name}\n{PROSE}\n")
    return folder


def test_books_are_in_the_order_of_their_hashes_and_held_out_whole(tmp_path, capsys):
    novels.main([str(tmp_path / "out"), "--source", str(books(tmp_path / "raw"))])
    for file, names in (("train.txt", novels.TRAIN), ("heldout.txt", novels.HELD_OUT)):
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        lines = (tmp_path / "out" / file).read_text().splitlines()
        assert lines[::2] == ordered
        assert set(lines[1::2]) == {PROSE.strip()}
    assert capsys.readouterr().out.count("NOT as for the docs' results") == 2
    (tmp_path / "raw" / "corpus" / "Lee_Brown_1884.txt").unlink()
    with pytest.raises(download.SourceError, match=r"Lee_Brown_1884\.txt"):
        novels.main([str(tmp_path / "out"), "--source", str(tmp_path / "raw")])


def test_a_model_is_trained_saved_and_scored(tmp_path):
    for name in ("train.txt", "heldout.txt"):
        (tmp_path / name).write_text(f"{PROSE}\n" * 8)
    recipe = base_model.Recipe(
        vocabulary=300, layers=1, width=16, heads=2, context=16, steps=80, batch=4, warm_up=2
    )
    loss = base_model.build(tmp_path, tmp_path / "model", recipe)
    assert loss < 4.5  # of log(300) = 5.7 before
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32
    )
    tokens = base_model.stream(tmp_path / "heldout.txt", tokenizer)
    assert tokenizer.decode(tokens) == f"{PROSE}\n" * 8
    windows = tokens[: len(tokens) // 16 * 16].view(-1, 16)
    logits = model(windows).logits[:, :-1].log_softmax(-1)
    slow = -logits.gather(-1, windows[:, 1:, None]).mean()
    assert base_model.heldout_loss(model, tokens, recipe) == pytest.approx(slow.item(), rel=1e-4)
    assert loss == pytest.approx(slow.item(), rel=1e-2)  # weights are stored in half precision
