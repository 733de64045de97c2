"""Checks by repetition: epsilon from error rates, sensitivity, and the amount of noise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from userdp.analysis.audit import bounds, event_trials, trade_off
from userdp.analysis.audit.event_trials import Bench, Others
from userdp.analysis.audit.finding import USUAL_FAILURE, Finding
from userdp.analysis.audit.options import Options, Randomness
from userdp.analysis.audit.subject import Subject
from userdp.server.accounting import RoundEvent

Tick = Callable[[int], None]  # so many trials are over
_CANDIDATES = 100  # thresholds that are tried on the first trials
_LEAST_COUNT = 20  # trials beyond the outermost of them
NAMES = {True: "a round it takes part in", False: "a round with coins"}
_ROUNDING = 1e-6  # by which a sum may move more than C


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """Scores of trials with the canary and without."""

    inside: np.ndarray  # (trials,)
    outside: np.ndarray  # (trials,)

    def split(self) -> tuple[_Scores, _Scores]:
        """The first quarter, which chooses the threshold, and the others, which are counted."""
        cut = len(self.inside) // 4
        return (
            _Scores(inside=self.inside[:cut], outside=self.outside[:cut]),
            _Scores(inside=self.inside[cut:], outside=self.outside[cut:]),
        )

    def rates(self, threshold: float, failure: float, scale: float = 1.0) -> tuple[float, float]:
        """Upper bounds of false positives and false negatives, wrong together with ``failure``.

        Args:
            threshold: scores above it mean "in".
            failure: probability that either bound is wrong.
            scale: number of trials that are pretended, over those there are.
        """
        trials = round(scale * len(self.inside))
        counts = (np.mean(self.outside > threshold), np.mean(self.inside <= threshold))
        false_positives, false_negatives = (
            bounds.clopper_pearson_upper(round(share * trials), trials, failure / 2)
            for share in counts
        )
        return false_positives, false_negatives


def arms(subject: Subject) -> list[tuple[Others, bool]]:
    """What the other users do, and whether the canary must take part.

    Others also divide where the mechanism compares their updates. Where all take part in turn,
    there are no coins.
    """
    compared = [(Others.DIVIDED, True)] if subject.mechanism.keeps_rows else []
    coins = [(Others.SILENT, False)] if subject.event.sampling_rate < 1 else []
    return [(Others.SILENT, True), *compared, *coins, (Others.OPPOSED, False)]


def random_checks(subject: Subject) -> int:
    """How many findings of `checks` have a random error: bounds on epsilon, and the noise."""
    return len(arms(subject)) + 1


def checks(
    subject: Subject, options: Options, randomness: Randomness, failure: float, tick: Tick
) -> list[Finding]:
    """Bounds on epsilon in the strong threat model, the sensitivity, and the noise.

    Args:
        failure: probability that a correct mechanism is called broken by one check.
        tick: called while trials are played.
    """
    findings, noise, sensitivities, begin = [], [], [], time.monotonic()
    for others, takes_part in arms(subject):
        bench = Bench.of(subject, options.dimension, others, randomness, takes_part=takes_part)
        finding, squares, sensitivity = epsilon_check(bench, options, randomness, failure, tick)
        findings.append(finding)
        noise += squares
        sensitivities.append(sensitivity)
    seconds = time.monotonic() - begin - sum(finding.seconds for finding in findings)
    moved = Finding.of_change(
        check="sensitivity of the sum",
        threat="same coins and noise in both worlds",
        largest=max(sensitivities),
        margin=_ROUNDING,
        trials=f"{2 * event_trials._SHIFTS} pairs",
        seconds=seconds,
    )
    return [*findings, moved, _noise(noise, failure)]


def epsilon_check(
    bench: Bench, options: Options, randomness: Randomness, failure: float, tick: Tick
) -> tuple[Finding, list[tuple[float, int]], float]:
    """A lower bound on epsilon of the whole run, from repetitions of one event.

    Returns:
        The finding; squares of noise and their number, by trial; the sensitivity over C.
    """
    begin, subject = time.monotonic(), bench.subject
    trials = subject.affordable(options.trials)
    moved = event_trials.moved(bench, randomness)
    stream = randomness.secret(f"trials {bench.others.value} {bench.takes_part}")
    figures: dict[bool, list[list[float]]] = {True: [], False: []}
    noise = []
    for _ in range(trials):
        for canary in (True, False):
            played = bench.play(stream, canary=canary)
            figures[canary].append(played.figures)
            noise.append((played.noise_square, played.noise_count))
        tick(2)
    inside, outside = np.array(figures[True]), np.array(figures[False])
    score = event_trials.weights(moved.shift, outside[: trials // 4])
    scores = _Scores(inside=inside @ score, outside=outside @ score)
    shown, decisive, details = _bounds(scores, bench, failure)
    finding = Finding(
        check=f"{NAMES[bench.takes_part]}, {bench.others.value}",
        threat="chooses all updates, sees the releases of one event, knows the mechanism",
        claim=subject.epsilon,
        measured=shown,
        decisive=decisive,
        confidence=1 - failure,
        trials=f"2 x {trials:,} trials",
        seconds=time.monotonic() - begin,
        details=details,
    )
    return finding, noise, moved.sensitivity


def _bounds(scores: _Scores, bench: Bench, failure: float) -> tuple[float, float, dict[str, float]]:
    """Lower bounds on epsilon of the run at 95 % and at ``1 - failure``, and figures of them."""
    first, rest = scores.split()
    subject, event = bench.subject, bench.event
    events = subject.mechanism.event_count(subject.rounds)
    threshold = _threshold(first, event, failure, len(rest.inside) / len(first.inside))
    found = []
    for allowed in (USUAL_FAILURE, failure):
        rates = rest.rates(threshold, allowed)
        noise = trade_off.excluded_noise(event, *rates)
        found.append(trade_off.epsilon_at(subject.event, noise, events, subject.delta))
    false_positives, false_negatives = rates
    details = {
        "false_positives": false_positives,
        "false_negatives": false_negatives,
        "noise_multiplier_at_most": noise,
        "epsilon_of_one_event": bounds.rates_epsilon(*rates, subject.delta),
    }
    return found[0], found[1], details


def _threshold(scores: _Scores, event: RoundEvent, failure: float, scale: float) -> float:
    """The threshold that promises the largest bound."""
    pooled = np.concatenate([scores.inside, scores.outside])
    least = min(0.25, _LEAST_COUNT / len(pooled))
    candidates = np.unique(np.quantile(pooled, np.linspace(least, 1 - least, _CANDIDATES)))
    rates = [scores.rates(threshold, failure, scale) for threshold in candidates]
    if event.cohort_cap is None:
        noise = [trade_off.excluded_noise(event, *pair) for pair in rates]
        if np.isfinite(noise).any():
            return float(candidates[int(np.argmin(noise))])
    # As between two normals (Nasr et al., arXiv 2302.07956, section 4): cheap for every event.
    apart = [stats.norm.isf(one) - stats.norm.ppf(other) for one, other in rates]
    return float(candidates[int(np.argmax(apart))])


def _noise(squares: list[tuple[float, int]], failure: float) -> Finding:
    """Whether there is as much noise as the release states; too much is no leak."""
    total, count = event_trials.noise_ratio(squares)
    return Finding.of_bound(
        check="amount of noise",
        threat="no canary: noise across its direction",
        quantity="stated / actual std",
        claim=1.0,
        bound=lambda allowed: _stated_over_actual(total, count, allowed),
        failure=failure,
        trials=f"{count:,} numbers",
    )


def _stated_over_actual(total: float, count: int, failure: float) -> float:
    """Lower confidence bound of the stated standard deviation over the actual one."""
    if not count:
        return 0.0
    if not total:
        return bounds.MOST_EPSILON
    return math.sqrt(float(stats.chi2.ppf(failure, count)) / total)
