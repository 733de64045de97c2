"""One round of user-wise DP-SGD and one of Group Privacy, in plain PyTorch and numpy.

Algorithms 2 and 1 of Chua et al., arXiv 2406.14322 (ULS and ELS of Charles et al., arXiv
2407.07737), one user and one record at a time. The engine of userdp computes the same sums in
batches; a test compares the two. To run this file: ``python analysis/examples/one_round.py``.

N users, at most k records per user, sampling rate q, clip norm C, noise multiplier z, D trainable
parameters. The comments in the code refer to the line numbers of these two listings.

User-wise DP-SGD (Algorithm 2), in every round:
    1. for each user, with probability q:
    2.     select at most k of the user's records
    3.     g = mean of the gradients of these records
    4.     add g * min(1, C / ||g||) to the sum
    5. add N(0, (z C)^2 I) to the sum
    6. release the sum divided by the expected number of users, q N

Group Privacy (Algorithm 1), line 1 once before the first round, the others in every round:
    1. give each user k record slots: k of the user's records, or all of them, repeated at random
    2. for each slot of each user, with probability q:
    3.     g = gradient of the slot's record
    4.     add g * min(1, C / ||g||) to the sum
    5. add N(0, (z C)^2 I) to the sum
    6. release the sum divided by the expected number of slots, q N k

The release takes the place of the gradient in the next step of an optimiser. Seeded generators
make a round repeatable, which a test needs. Privacy needs coins and noise that nobody can predict:
userdp takes its own from the operating system.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import peft
import torch
import transformers
from torch import nn
from torch.nn import functional

VOCABULARY = 61


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient, D numbers together."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def record_gradient(model: nn.Module, record: np.ndarray) -> np.ndarray:
    """Gradient of a record's mean next-token loss.

    Args:
        model: on the CPU, in eval mode (no dropout); ``model(input_ids=...).logits`` are the
            scores of the next tokens, (1, tokens, vocabulary).
        record: (tokens,) int64, at least two tokens: the first one is never predicted.

    Returns:
        (D,) float64, in the order of `trainable`.
    """
    tokens = torch.as_tensor(record)
    logits = model(input_ids=tokens[None]).logits[0]  # (tokens, vocabulary)
    loss = functional.cross_entropy(logits[:-1], tokens[1:])
    gradients = torch.autograd.grad(loss, trainable(model))
    return np.concatenate([g.double().numpy().ravel() for g in gradients])


def clip(g: np.ndarray, C: float) -> np.ndarray:
    """``g * min(1, C / ||g||)`` for (D,) float64; zeros where the norm is zero, inf or NaN."""
    norm = float(np.linalg.norm(g))
    return g * min(1.0, C / norm) if 0.0 < norm < np.inf else np.zeros_like(g)


def user_wise_round(
    model: nn.Module,
    users: Sequence[Sequence[np.ndarray]],
    *,
    q: float,
    k: int,
    C: float,
    z: float,
    coins: np.random.Generator,
    selection: np.random.Generator,
    noise: np.random.Generator,
) -> np.ndarray:
    """One round of user-wise DP-SGD: the average over a user's records is clipped.

    Args:
        model: as in `record_gradient`.
        users: the records, each (tokens,) int64, of each of N declared users; some may have none.
        q: sampling rate of a user, above 0 and at most 1.
        k: records per user at most, at least 1.
        C: clip norm, above 0.
        z: noise multiplier; 0 adds no noise and gives no privacy.
        coins: tosses one coin for each user.
        selection: selects the records of a sampled user.
        noise: draws the noise.

    Returns:
        (D,) float64, the released mean gradient.
    """
    total = np.zeros(sum(p.numel() for p in trainable(model)))
    for records in users:
        if coins.random() < q and records:  # 1: users without records toss a coin too
            chosen = selection.permutation(len(records))[:k]  # 2: without replacement
            # 3: records weigh the same, whatever their lengths; fewer than k are not padded
            g = np.mean([record_gradient(model, records[i]) for i in chosen], axis=0)
            total += clip(g, C)  # 4: a user moves the sum by at most C, whatever k
    total += noise.normal(0.0, z * C, total.shape)  # 5: once, also if nobody was sampled
    return total / (q * len(users))  # 6: a constant; the number of sampled users is private


def fill_slots(
    records: Sequence[np.ndarray], k: int, selection: np.random.Generator
) -> Sequence[np.ndarray]:
    """Line 1 of Group Privacy, for one user.

    Args:
        records: of the user, each (tokens,) int64.
        k: slots of a user, at least 1.
        selection: selects the records, and those that are repeated.

    Returns:
        Exactly k records, or none for a user without records.
    """
    order = selection.permutation(len(records))[:k]
    repeated = selection.choice(order, k - len(order)) if len(order) else order
    return [records[i] for i in (*order, *repeated)]


def group_privacy_round(
    model: nn.Module,
    slots: Sequence[Sequence[np.ndarray]],
    *,
    q: float,
    k: int,
    C: float,
    z: float,
    coins: np.random.Generator,
    noise: np.random.Generator,
) -> np.ndarray:
    """One round of Group Privacy: each record is clipped alone.

    Args:
        model: as in `record_gradient`.
        slots: k records of each of N declared users, as `fill_slots` gives them, or none.
        q: sampling rate of a slot, above 0 and at most 1.
        k: slots of each user.
        C: clip norm, above 0.
        z: noise multiplier; 0 adds no noise and gives no privacy.
        coins: tosses k coins for each user.
        noise: draws the noise.

    Returns:
        (D,) float64, the released mean gradient.
    """
    total = np.zeros(sum(p.numel() for p in trainable(model)))
    for records in slots:
        for slot in range(k):
            if coins.random() < q and records:  # 2: a coin of its own for each slot
                g = record_gradient(model, records[slot])  # 3
                total += clip(g, C)  # 4: a slot moves the sum by at most C, a user by up to k C
    total += noise.normal(0.0, z * C, total.shape)  # 5: once, also if no slot was sampled
    return total / (q * k * len(slots))  # 6: a constant, as in the other algorithm


def tiny_model() -> nn.Module:
    """A GPT-2 of two small layers with random weights, and a LoRA adapter of rank 2."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    # GPT-2 stores its linear weights transposed: `fan_in_fan_out`.
    adapter = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = transformers.GPT2LMHeadModel(config)
        return peft.get_peft_model(base, adapter).eval()


def main() -> None:
    """Print the gradient norms of six random users, and the norms of both released means."""
    model, q, k, C = tiny_model(), 0.5, 3, 0.05
    data, coins, selection, noise = (np.random.Generator(np.random.PCG64(s)) for s in range(4))
    sizes = data.integers(1, 6, 6)  # records of each user
    users = [[data.integers(0, VOCABULARY, data.integers(4, 20)) for _ in range(n)] for n in sizes]
    for number, records in enumerate(users):
        g = np.mean([record_gradient(model, record) for record in records[:k]], axis=0)
        before, after = np.linalg.norm(g), np.linalg.norm(clip(g, C))
        print(f"user {number}: {len(records)} records, norm {before:.4f}, clipped {after:.4f}")
    slots = [fill_slots(records, k, selection) for records in users]
    for z in (0.0, 1.0):
        user_wise = user_wise_round(
            model, users, q=q, k=k, C=C, z=z, coins=coins, selection=selection, noise=noise
        )
        per_slot = group_privacy_round(model, slots, q=q, k=k, C=C, z=z, coins=coins, noise=noise)
        norms = np.linalg.norm(user_wise), np.linalg.norm(per_slot)
        print(f"z = {z:g}: user-wise mean {norms[0]:.4f}, Group Privacy mean {norms[1]:.4f}")


if __name__ == "__main__":
    main()
