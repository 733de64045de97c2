"""Pre-trains novels-2m, the small base model of the docs' results, on the text of public_novels.

    python -m userdp.analysis.datasets.base_model public_novels novels-2m

A GPT-2 shape: 4 layers, width 192, 6 heads, context 256, byte-level BPE of 4,096 entries. It took
4,883 steps of 24 windows of 256 tokens (about 30 million tokens, 6.6 passes over 4.57 million),
AdamW with a cosine from 0.003 and bfloat16 autocast. The tokenizer is that of the docs' results,
entry by entry. The model of the docs' results has 4.165 nats a held-out token in the windows of
this script (4.160 when it was made); its seed, warm-up and weight decay were not noted, so a model
that is trained here has other weights, and should come near that loss. The whole training has not
been repeated by this script.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from userdp.clients.models import embedded
from userdp.sim.common import durable_file

END = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Size and training of the model."""

    vocabulary: int = 4096
    layers: int = 4
    width: int = 192
    heads: int = 6
    context: int = 256
    steps: int = 4883
    batch: int = 24  # windows of ``context`` tokens
    learning_rate: float = 3e-3
    warm_up: int = 100  # steps
    seed: int = 0


def tokenizer(train: Path, recipe: Recipe) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE, trained on a text file."""
    bpe, trainer = embedded.byte_level_bpe(recipe.vocabulary, END)
    bpe.train([str(train)], trainer)
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=recipe.context,
    )


def stream(path: Path, encode: transformers.PreTrainedTokenizerFast) -> Tensor:
    """The tokens of a text file, paragraph by paragraph with the line breaks: (tokens,) int64."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    ids = encode(lines, verbose=False)["input_ids"]
    return torch.tensor([token for line in ids for token in line])


def initial(recipe: Recipe, end: int, vocabulary: int) -> transformers.GPT2LMHeadModel:
    """The model with random weights, without dropout; ``end`` is the id of the end of a text."""
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_layer=recipe.layers,
        n_embd=recipe.width,
        n_head=recipe.heads,
        n_positions=recipe.context,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return transformers.GPT2LMHeadModel(config)


def pretrain(model: transformers.GPT2LMHeadModel, tokens: Tensor, recipe: Recipe) -> None:
    """Train on random windows of the text, in place.

    Args:
        tokens: (tokens,) int64.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.1)
    draws = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _factor(step, recipe)
        starts = torch.randint(len(tokens) - recipe.context, (recipe.batch, 1), generator=draws)
        windows = tokens[starts + torch.arange(recipe.context)]  # (batch, context)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=windows, labels=windows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step} of {recipe.steps}: loss {loss.item():.3f}", flush=True)


def heldout_loss(model: transformers.GPT2LMHeadModel, tokens: Tensor, recipe: Recipe) -> float:
    """Mean loss in nats of a token, over consecutive windows of tokens (tokens,) int64."""
    windows = tokens[: len(tokens) // recipe.context * recipe.context].view(-1, recipe.context)
    with torch.no_grad():
        losses = [
            float(model(input_ids=part, labels=part).loss) * len(part)
            for part in torch.split(windows, 16)
        ]
    return sum(losses) / len(windows)


def _factor(step: int, recipe: Recipe) -> float:
    """Of the learning rate: linear warm-up, then a cosine to 0 (arXiv 1608.03983)."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return 0.5 * (1 + math.cos(math.pi * done))


def build(text: Path, output: Path, recipe: Recipe) -> float:
    """Train tokenizer and model on ``train.txt`` of a folder and save both.

    Returns:
        The loss on ``heldout.txt`` in nats a token.
    """
    encode = tokenizer(text / "train.txt", recipe)
    model = initial(recipe, int(encode.vocab[END]), len(encode))
    pretrain(model, stream(text / "train.txt", encode), recipe)
    loss = heldout_loss(model, stream(text / "heldout.txt", encode), recipe)
    encode.save_pretrained(output)
    torch.nn.Module.half(model)
    model.save_pretrained(output)
    durable_file.sync_tree(output)
    return loss


def main(given: Sequence[str] | None = None) -> None:
    """Pre-train the model, which takes an hour or so on 2 cores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path, help="the folder of train.txt and heldout.txt")
    parser.add_argument("output", type=Path, help="a folder for the model")
    options = parser.parse_args(given)
    loss = build(options.text, options.output, Recipe())
    print(
        f"{options.output}: {loss:.3f} nats a held-out token; 4.165 for that of the docs' results"
    )


if __name__ == "__main__":
    main()
