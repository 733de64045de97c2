"""lm-evaluation-harness finds a run's bits per byte, but for the end of each text.

It is no dependency of userdp: without it, this is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import tokenizers
import torch
import transformers

from helpers import small_world
from helpers.whole_runs import logged, ran
from userdp.sim.data import holdout

TASKS = Path(__file__).parents[3] / "analysis" / "lm_eval"
LEARNT = ["strategy=non_private", "privacy.epsilon=null", "rounds=4", "optimizer.lr=1"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is missing"),
]


def base(folder: Path) -> Path:
    """The small world's model, whose tokenizer now puts a token before every text."""
    made = transformers.AutoTokenizer.from_pretrained(small_world.model())
    first = (made.eos_token, made.eos_token_id)
    made.bos_token = made.eos_token
    made.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{first[0]} $A", special_tokens=[first]
    )
    transformers.AutoModelForCausalLM.from_pretrained(small_world.model()).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def scored(folder: Path, tokenizer: Path | str) -> float:
    """Bits per byte of ``held_out.jsonl``, by the documented command."""
    options = f"pretrained=base,peft=run/adapter,tokenizer={tokenizer},add_bos_token=False"
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", options),
        *("--include_path", str(TASKS), "--tasks", "userdp_heldout"),
        *("--device", "cpu", "--output_path", "scores"),
    ]
    caches = {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=folder, env=os.environ | caches, check=True, capture_output=True)
    [file] = (folder / "scores").rglob("results_*.json")
    return json.loads(file.read_text())["results"]["userdp_heldout"]["bits_per_byte,none"]


def ends(folder: Path, texts: list[str]) -> float:
    """Nats of the closing tokens, by plain forward passes."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    model = peft.PeftModel.from_pretrained(plain, folder / "run" / "adapter").eval()
    tokenizer, total = transformers.AutoTokenizer.from_pretrained(folder / "base"), 0.0
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert len(ids) < 32  # else the run has cut the record
        with torch.no_grad():
            last = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        total -= float(torch.log_softmax(last, -1)[tokenizer.eos_token_id])
    return total


def test_bits_per_byte_are_ours_without_the_ends_of_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    rows = [
        {"user_id": row["user_id"], "text": " ".join(row["text"].split()[:8])}
        for row in small_world.rows()
        if row["user_id"] != small_world.MARKER_USER
    ]
    public = [row for row in rows if holdout.user_held_out(0, row["user_id"], 0.3)]
    for name, some in (("mail", rows), ("held_out", public)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    changes = [f"model.path={base(tmp_path / 'base')}", "data.path=mail.jsonl", "model.seq_len=32"]
    run, texts = ran("run", *changes, *LEARNT), [row["text"] for row in public]
    size = sum(len(text.encode()) for text in texts)
    ours, theirs = logged(run)[-1]["summary/heldout_bits_per_byte"], scored(tmp_path, "run/adapter")
    closing = ends(tmp_path, texts) / math.log(2) / size
    assert closing > 0.01
    assert ours - closing == pytest.approx(theirs, rel=1e-5)
