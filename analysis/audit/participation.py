"""Checks how users take part: at most once in an event, by independent coins of the stated rate.

The claim rests on the law of the coins. Cohorts are drawn as for a run, and neither updates nor
noise are needed. All N k positions toss independent coins of rate q once in an event, so that

- no position is drawn twice in the rounds of one event;
- the number of drawn positions is Binomial(N k, q), cut at the cap where there is one. The largest
  distance of its empirical distribution from this law is bounded by the inequality of Dvoretzky,
  Kiefer and Wolfowitz (Massart 1990), which holds for every sample size;
- each position is drawn Binomial(draws, q) times, tested at the most and least frequent one.
"""

from __future__ import annotations

import copy
import math
import time

import numpy as np
from scipy import special, stats

from userdp.analysis.audit import bounds
from userdp.analysis.audit.finding import Finding
from userdp.analysis.audit.options import Options, Randomness
from userdp.analysis.audit.repeated import Tick
from userdp.analysis.audit.subject import Subject
from userdp.sim.common import rng

RANDOM_CHECKS = 2
_ROUNDING = 1e-9  # of a rate of 1
_THREAT = "sees who takes part"


def checks(
    subject: Subject, options: Options, randomness: Randomness, failure: float, tick: Tick
) -> list[Finding]:
    """Repetitions of a position, the size of cohorts, and each position's frequency.

    Size and frequency are left out where a run is shorter than one event.

    Args:
        failure: probability that a correct mechanism is called broken by one check.
        tick: called while cohorts are drawn.
    """
    begin, mechanism = time.monotonic(), subject.mechanism
    draws = subject.affordable(options.draws)
    counts = np.zeros(mechanism.users * mechanism.group_size, np.int64)
    sizes, most = np.zeros(draws, np.int64), 0
    stream = randomness.secret("cohorts")
    for i in range(draws):
        positions = _event_positions(subject, stream)
        distinct, times = np.unique(positions, return_counts=True)
        most = max(most, int(times.max(initial=0)))
        counts[distinct] += 1
        sizes[i] = len(positions)
        tick(1)
    seconds, trials = time.monotonic() - begin, f"{draws:,} cohorts"
    once = Finding(
        check="a unit takes part once",
        threat=_THREAT,
        quantity="times in one event",
        claim=1.0,
        measured=float(most),
        decisive=float(most),
        confidence=None,
        trials=trials,
        seconds=seconds,
    )
    if subject.period < mechanism.rounds_per_event:
        return [once]
    return [
        once,
        _size(subject, sizes, failure, trials),
        _frequency(subject, counts, draws, failure),
    ]


def _event_positions(subject: Subject, stream: rng.SecretStream) -> np.ndarray:
    """Positions drawn in the rounds of one event, repetitions included."""
    mechanism, drawn = copy.deepcopy(subject.mechanism), []
    for number in range(1, subject.period + 1):
        assignment = subject.drawn(mechanism, stream, number)
        slots = assignment.slots if len(assignment.slots) else 0
        drawn.append(assignment.users * mechanism.group_size + slots)
    return np.concatenate(drawn)


def _size(subject: Subject, sizes: np.ndarray, failure: float, trials: str) -> Finding:
    """Distance of the empirical distribution of cohort sizes from the stated law."""
    mechanism, event = subject.mechanism, subject.event
    positions = mechanism.users * mechanism.group_size
    values = np.arange(int(sizes.min()) - 1, int(sizes.max()) + 1)
    stated = stats.binom.cdf(values, positions, event.sampling_rate)
    if event.cohort_cap is not None:
        stated = np.where(values >= event.cohort_cap, 1.0, stated)
    empirical = np.searchsorted(np.sort(sizes), values, side="right") / len(sizes)
    distance = float(np.abs(empirical - stated).max())
    return Finding.of_bound(
        check="size of a cohort",
        threat=_THREAT,
        quantity="distance from the law",
        claim=0.0,
        bound=lambda allowed: max(0.0, distance - _dkw(len(sizes), allowed)),
        failure=failure,
        trials=trials,
        details={"distance": distance},
    )


def _dkw(draws: int, failure: float) -> float:
    return math.sqrt(math.log(2 / failure) / (2 * draws))


def _frequency(subject: Subject, counts: np.ndarray, draws: int, failure: float) -> Finding:
    """How often the positions that deviate most were drawn, in the stated rate."""
    rate, high, low = _inclusion_rate(subject), int(counts.max()), int(counts.min())
    return Finding.of_bound(
        check="frequency of a position",
        threat=_THREAT,
        quantity="rate / stated, or inverse",
        claim=1.0,
        bound=lambda allowed: _furthest(high, low, draws, rate, allowed / (2 * len(counts))),
        failure=failure,
        trials=f"{draws:,} cohorts",
        details={"stated_rate": rate, "most": high, "least": low},
    )


def _furthest(high: int, low: int, draws: int, rate: float, failure: float) -> float:
    """By what factor the rate of an extreme position differs from ``rate``, at least.

    Args:
        high: draws of the most frequent position.
        low: of the least frequent one.
        failure: probability that the bound of one position is wrong on one side.
    """
    at_least = float(special.betaincinv(high, draws - high + 1, failure)) if high else 0.0
    at_most = bounds.clopper_pearson_upper(low, draws, failure)
    return max(at_least / rate, rate / at_most) - _ROUNDING


def _inclusion_rate(subject: Subject) -> float:
    """Probability that a position takes part in an event: q, or a little less under a cap."""
    event = subject.event
    if event.cohort_cap is None or event.population is None:
        return event.sampling_rate
    sizes = np.arange(event.population + 1)
    law = stats.binom.pmf(sizes, event.population, event.sampling_rate)
    return float(law @ np.minimum(sizes, event.cohort_cap)) / event.population
