"""Pre-trains the embedded base model: a small tokenizer and causal model, without network access.

Both are trained on the generated public text alone; records of private users are not read. The
result is an ordinary folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
import tokenizers
import torch
import transformers
from torch import Tensor

from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.common import cache
from userdp.sim.data.synthetic import users

VERSION = 2  # of the training procedure in this file; part of the cache key
END = "<|end|>"  # end-of-text token


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of the pre-training."""

    seed: int = 0
    tales: int | None = None  # number of public texts; None takes all
    vocabulary: int = 2000
    layers: int = 2
    width: int = 128  # of the hidden states
    heads: int = 4
    context: int = 128  # longest text, tokens
    steps: int = 900
    batch: int = 8  # windows of ``context`` tokens per step
    smoothing: float = 0.02  # share of a target's probability that goes to all tokens alike
    learning_rate: float = 4e-3


DEFAULT = Recipe()


def ensure(cache_folder: Path, *, quiet: bool = False, recipe: Recipe = DEFAULT) -> Path:
    """The folder of the embedded model and tokenizer; pre-trains them if they are not cached.

    Pre-training with the default recipe takes about a minute on a CPU.

    Args:
        cache_folder: the result is stored in its subfolder ``models``.
        quiet: show no progress bar on stderr.
    """
    key = cache.fingerprint("embedded", VERSION, users.VERSION, recipe)
    return cache.published(
        cache_folder / "models" / f"embedded-{key}", lambda folder: _build(folder, recipe, quiet)
    )


def _build(folder: Path, recipe: Recipe, quiet: bool) -> None:
    """Train tokenizer and model, and save both into ``folder``."""
    texts = users.public_text(recipe.seed)[: recipe.tales]
    tokenizer = train_tokenizer(texts, recipe)
    encoded = TokenizerEncode(tokenizer)(texts)
    stream = torch.tensor([token for ids in encoded for token in ids])
    model = pretrain(stream, tokenizer, recipe, quiet)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def train_tokenizer(texts: Sequence[str], recipe: Recipe) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE, trained on texts."""
    bpe, trainer = byte_level_bpe(recipe.vocabulary, END)
    bpe.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, eos_token=END, pad_token=END, model_max_length=recipe.context
    )


def byte_level_bpe(vocabulary: int, end: str) -> tuple[Any, Any]:
    """An untrained byte-level BPE (Sennrich et al., arXiv 1508.07909), and what trains it.

    It encodes every text without loss.

    Args:
        vocabulary: number of tokens, the end-of-text token ``end`` among them.
    """
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[end],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return bpe, trainer


def pretrain(
    stream: Tensor, tokenizer: transformers.PreTrainedTokenizerFast, recipe: Recipe, quiet: bool
) -> transformers.GPT2LMHeadModel:
    """Train a GPT-2 with AdamW on random windows of the public text.

    Args:
        stream: (tokens,) int64, all texts joined.

    Returns:
        The model in evaluation mode; global random state is unchanged.
    """
    model = _initial_model(len(tokenizer), tokenizer.eos_token_id, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, recipe))
    draws = torch.Generator().manual_seed(recipe.seed)
    for _ in _progress(recipe.steps, quiet):
        starts = torch.randint(len(stream) - recipe.context, (recipe.batch, 1), generator=draws)
        windows = stream[starts + torch.arange(recipe.context + 1)]  # (batch, context + 1)
        logits = model(input_ids=windows[:, :-1]).logits
        loss = _loss(logits, windows[:, 1:], recipe.smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.train(False)
    return model


def _loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean next-token loss with smoothed targets (Szegedy et al., arXiv 1512.00567, section 7).

    The generated text is so regular that without it the model would give any other text a
    probability of nearly 0. Noise in the tokens has the same effect, and is learned: the model
    writes it. A smoothed target leaves the text as it is.

    Args:
        logits: (batch, context, vocabulary).
        targets: (batch, context) int64.
    """
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing
    )


def _initial_model(vocabulary: int, end: int, recipe: Recipe) -> transformers.GPT2LMHeadModel:
    """A GPT-2 with random weights in training mode, without dropout; ``end``: end-of-text id."""
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_layer=recipe.layers,
        n_embd=recipe.width,
        n_head=recipe.heads,
        n_positions=recipe.context,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own, computed in one step
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = transformers.GPT2LMHeadModel(config)
    model.train()
    return model


def _warm_cosine(step: int, recipe: Recipe) -> float:
    """Learning-rate factor: linear warm-up over the first 5 % of the steps, then cosine decay to 0.

    Cosine decay: Loshchilov & Hutter, arXiv 1608.03983.
    """
    warm = max(1, recipe.steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


def _progress(steps: int, quiet: bool) -> Iterable[int]:
    return rich.progress.track(
        range(steps),
        description="Pre-training the embedded model",
        console=rich.console.Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )
