"""Prints the tables of docs/correlated-noise.md: errors of factors, and noise at equal epsilon."""

from __future__ import annotations

import dataclasses
import math

from userdp.server import accounting
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.matrix_factorization.factor import identity, optimal, square_root
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.user_wise import UserWise

HORIZONS, BANDS = (100, 500), (1, 2, 5, 10, 20)
USERS, COHORT, ROUNDS, DELTA = 2759, 100, 60, 1 / 27590
PUBLIC = {"users": USERS, "records_per_user": 4, "clip_norm": 1.0, "noise_multiplier": 1.0}


def factors() -> None:
    """Root mean squared errors of a prefix sum, per unit of noise on one participation."""
    print("| T | b | ours | largest of a round | square root | independent | single, dense |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for rounds in HORIZONS:
        dense = math.sqrt(optimal(rounds, rounds).mean_error)
        plain = math.sqrt(identity(rounds).mean_error)
        for bands in (*BANDS, rounds):
            ours = optimal(rounds, bands)
            root = math.sqrt(square_root(rounds, bands).mean_error)
            figures = (math.sqrt(ours.mean_error), math.sqrt(ours.max_error), root, plain, dense)
            print(f"| {rounds} | {bands} | {' | '.join(f'{x:.3f}' for x in figures)} |")


def mechanisms() -> dict[str, Mechanism]:
    """The compared mechanisms by their row's title, at z = 1."""

    def grouped(**options) -> Mechanism:
        return MatrixFactorization(rounds=ROUNDS, **{**PUBLIC, "cohort": COHORT, **options})

    return {
        "user_wise, secret Poisson cohorts": UserWise(cohort=COHORT, **PUBLIC),
        "matrix_factorization, b = 4, coins": grouped(bands=4),
        "matrix_factorization, b = 10, coins": grouped(bands=10),
        "matrix_factorization, whole groups": grouped(),
        "the same, objective=last": grouped(objective="last"),
        "the same, objective=independent": grouped(objective="independent"),
        "everybody in every round": grouped(cohort=USERS),
    }


def noise_at(epsilon: float) -> None:
    """Noise of one round's mean and of the mean prefix sum, per unit of C."""
    print(f"\nepsilon {epsilon:g}")
    print("| mechanism | b | K | z | gradients a round / k | round | prefix sum | last sum |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, mechanism in mechanisms().items():
        events = mechanism.event_count(ROUNDS)
        z = accounting.calibrate(mechanism.event(), events, epsilon, DELTA)
        ours = dataclasses.replace(mechanism, noise_multiplier=z)
        plain = identity(ROUNDS)
        factor = ours.factor if isinstance(ours, MatrixFactorization) else plain
        m = ours.expected_units
        errors = [math.sqrt(error) * z / m for error in (factor.mean_error, factor.last_error)]
        print(
            f"| {name} | {ours.rounds_per_event} | {events} | {z:.3f} | {m:.1f} "
            f"| {ours.noise_std / m:.4f} | {errors[0]:.4f} | {errors[1]:.4f} |"
        )


if __name__ == "__main__":
    factors()
    for target in (1.0, 3.0, 8.0):
        noise_at(target)
