"""Audits with one run: many canary users at once, each in or out by a secret fair coin.

- Lower bound: the auditor guesses coins and abstains on others (Steinke, Nasr, Jagielski, arXiv
  2305.08846); the bound is that of `bounds.one_run_epsilon`.
- Estimate: cosines of the canaries' directions with the sum of the releases, for canaries that are
  in, against the known law of a random direction (Andrew et al., arXiv 2302.03098).

The canaries are users of the run: the mechanism samples them by its own coins in every round, and
their updates, random directions beyond the clip norm, go through the clip rule of the contract.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np

from userdp.analysis.audit import bounds
from userdp.analysis.audit.finding import USUAL_FAILURE, Finding
from userdp.analysis.audit.options import Options, Randomness
from userdp.analysis.audit.repeated import Tick
from userdp.analysis.audit.subject import OVERSHOOT, Subject, fitting, signs

RANDOM_CHECKS = 1
_GUESSES = (1 / 16, 1 / 4, 1.0)  # shares of the canaries; the bound is corrected for the choice
_DIMENSIONS = 4  # of the vectors, for each canary: random directions are then nearly orthogonal


@dataclass(frozen=True, kw_only=True)
class Run:
    """Scores of canaries in one run, and the secret coins."""

    scores: np.ndarray  # (m,) higher means "in"
    included: np.ndarray  # (m,) bool
    cosines: np.ndarray  # (m,) with the sum of the releases
    dimension: int | None  # D of random directions; None: directions with a law of their own

    def estimate(self, delta: float) -> float:
        """Epsilon from the cosines of canaries that are in, against those of canaries that are out.

        The cosine of a random direction is N(0, 1/D); for other directions the canaries that are
        out give mean and standard deviation.
        """
        inside, outside = self.cosines[self.included], self.cosines[~self.included]
        if len(inside) < 2 or (self.dimension is None and len(outside) < 2):
            return 0.0
        mean, std = 0.0, 1 / math.sqrt(self.dimension or 1)
        if self.dimension is None:
            mean, std = float(outside.mean()), float(outside.std())
        return bounds.two_normals_epsilon(
            float(inside.mean()) - mean, float(inside.std()), std, delta
        )


def checks(
    subject: Subject, options: Options, randomness: Randomness, failure: float, tick: Tick
) -> list[Finding]:
    """The one-run bound and the one-shot estimate.

    Args:
        failure: probability that a correct mechanism is called broken.
        tick: called after each round.
    """
    begin, rounds = time.monotonic(), min(subject.rounds, options.rounds)
    run = play(subject, options.count, rounds, randomness, tick)
    return list(findings(run, subject, rounds, failure, time.monotonic() - begin))


def findings(
    run: Run, subject: Subject, rounds: int, failure: float, seconds: float, canaries: str = ""
) -> tuple[Finding, Finding]:
    """The one-run bound and the one-shot estimate of a run.

    Args:
        failure: probability that the bound calls a correct mechanism broken.
        seconds: that the run took.
        canaries: what they are, if not vectors.
    """
    claim, remark = subject.claim(rounds), f", {canaries}" if canaries else ""
    trials = f"{len(run.scores):,} canaries, {rounds} rounds"
    shown, decisive = (lower_bound(run, subject.delta, f) for f in (USUAL_FAILURE, failure))
    bound = Finding(
        check=f"one run, guesses{remark}",
        threat="knows the canaries' directions, sees all releases",
        claim=claim,
        measured=shown,
        decisive=decisive,
        confidence=1 - failure,
        trials=trials,
        seconds=seconds,
    )
    shot = Finding(
        check=f"one run, cosines{remark}",
        threat="knows the canaries' directions, sees the sum of the releases",
        claim=claim,
        measured=run.estimate(subject.delta),
        decisive=None,
        confidence=None,
        trials=trials,
        seconds=0.0,
    )
    return bound, shot


def play(subject: Subject, count: int, rounds: int, randomness: Randomness, tick: Tick) -> Run:
    """One run with ``count`` canaries among the declared users, or as many as there are."""
    mechanism, own = copy.deepcopy(subject.mechanism), randomness.own("one run")
    count = min(count, mechanism.users)
    dimension = fitting(max(64, _DIMENSIONS * count))
    directions = signs(dimension, count, own)
    included = own.integers(0, 2, count) == 1
    numbers = np.full(mechanism.users, -1)
    numbers[own.choice(mechanism.users, count, replace=False)] = np.arange(count)
    released, stream = np.zeros(dimension), randomness.secret("one run")
    for number in range(1, rounds + 1):
        assignment = subject.drawn(mechanism, stream, number)
        canaries = numbers[assignment.users]
        canaries = canaries[(canaries >= 0) & included[canaries]]
        contract = subject.contract(mechanism, number)
        rows = directions[canaries] * np.float32(OVERSHOOT * contract.clip_norm)
        release = mechanism.release(subject.clipped(rows, contract), stream, number)
        released += release.mean / (release.noise_std or 1.0)
        mechanism = mechanism.after(release)
        tick(1)
        if release.halted:
            break
    scores = directions.astype(np.float64) @ released
    norm = float(np.linalg.norm(released)) or 1.0
    return Run(scores=scores, included=included, cosines=scores / norm, dimension=dimension)


def lower_bound(run: Run, delta: float, failure: float) -> float:
    """Lower bound on epsilon, wrong with a probability of at most ``failure``.

    The canaries of the highest scores are guessed to be in, as many of the lowest to be out. The
    best of several numbers of guesses is taken, each at its share of ``failure``.
    """
    order, count = np.argsort(run.scores), len(run.scores)
    best = 0.0
    for share in _GUESSES:
        half = max(1, int(share * count / 2))
        correct = int(run.included[order[-half:]].sum() + (~run.included[order[:half]]).sum())
        best = max(
            best,
            bounds.one_run_epsilon(
                canaries=count,
                guesses=2 * half,
                correct=correct,
                delta=delta,
                failure=failure / len(_GUESSES),
            ),
        )
    return best
