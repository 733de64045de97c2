"""Prints the table of docs/edgeworth.md: EW-Tune's settings, their claims and their certified cost.

``python tests/helpers/edgeworth_table.py`` prints it in Markdown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from userdp.server import accounting
from userdp.server.accounting.edgeworth import estimate

TARGET = 8.0
BATCH, EPOCHS = 2000, 20
HEAD = [
    "task", "delta", "T", "q", "z (EW-Tune)", "its epsilon", "estimate, orders 0 to 3",
    "certified epsilon", "z by PLD", "z by RDP",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run of EW-Tune, with the noise multiplier in its logs."""

    task: str
    records: int  # of the training split
    delta: float
    noise_multiplier: float

    @property
    def event(self) -> accounting.RoundEvent:
        return accounting.RoundEvent(
            sampling_rate=BATCH / self.records, noise_multiplier=self.noise_multiplier
        )

    @property
    def rounds(self) -> int:
        return EPOCHS * (self.records // BATCH)

    def estimates(self) -> list[float]:
        """Estimated epsilon by order, 0 to 3."""
        composition = [(self.event, self.rounds)]
        return [estimate.estimate(composition, self.delta, order=order) for order in range(4)]

    def certified(self) -> accounting.Epsilon:
        return accounting.epsilon([(self.event, self.rounds)], self.delta, relative_gap=0.002)

    def required_noise(self, accountant: str) -> float:
        """Noise multiplier that the accountant requires for the target epsilon."""
        return accounting.calibrate(
            self.event, self.rounds, TARGET, self.delta, accountant=accountant
        )


SETTINGS = [
    Setting(task=task, records=records, delta=delta, noise_multiplier=z)
    for task, records, delta, z in [
        ("MNLI", 392_702, 1e-5, 0.557),
        ("MNLI", 392_702, 1e-6, 0.573),
        ("QQP", 363_849, 1e-5, 0.5635),
        ("QQP", 363_849, 1e-6, 0.58),
        ("QNLI", 104_743, 1e-5, 0.711),
        ("QNLI", 104_743, 1e-6, 0.7395),
        ("SST-2", 67_349, 1e-5, 0.7865),
    ]
]


def row(setting: Setting) -> list[str]:
    """Cells of one line of the table."""
    certified = setting.certified()
    return [
        setting.task,
        f"{setting.delta:.0e}",
        f"{setting.rounds}",
        f"{setting.event.sampling_rate:.6f}",
        f"{setting.noise_multiplier:g}",
        f"{TARGET:g}",
        " / ".join(f"{value:.2f}" for value in setting.estimates()),
        f"[{math.floor(100 * certified.lower) / 100:.2f}, "
        f"{math.ceil(100 * certified.upper) / 100:.2f}]",
        f"{setting.required_noise('pld'):.4f}",
        f"{setting.required_noise('rdp'):.4f}",
    ]


def table() -> str:
    """The table in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *(row(setting) for setting in SETTINGS)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    print(table())
