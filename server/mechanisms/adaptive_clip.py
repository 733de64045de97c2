"""Adaptive clip norm: follows a quantile of the units' update norms, at the price of some noise.

Andrew et al., "Differentially Private Learning with Adaptive Clipping", arXiv 1905.03871. With
``b_i = 1[norm of unit i <= C]``, a round releases one joint Gaussian over its one cohort:

    sum of clipped updates  + N(0, (z_D C)^2 I)     sensitivity C
    sum of (b_i - 1/2)      + N(0, sigma_b^2)       sensitivity 1/2

Whitened by their noise the two move by ``sqrt(1/z_D^2 + 1/(2 sigma_b)^2)`` with a unit, which is
``1/z`` for the ``z_D`` below: the round costs what a Gaussian of noise multiplier z costs. Too many
unclipped units make C smaller: ``C <- C exp(-eta (b - gamma))``, ``b = 1/2 + noised bits / m``.

>>> rule = AdaptiveClip(quantile=0.5)
>>> rule.update_multiplier(1.0, 64) > 1.0
True
>>> rule.next_norm(1.0, 0.9) < 1.0 < rule.next_norm(1.0, 0.1)
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from userdp.sim.common.errors import ConfigurationError

BIT_SENSITIVITY = 0.5  # of the sum of (b_i - 1/2) to one unit
MOST_DEVIATIONS = 9.0  # above the largest normal that 53 random bits give


@dataclass(frozen=True, kw_only=True)
class AdaptiveClip:
    """Public parameters of the rule; the clip norm itself is a field of the mechanism.

    Raises:
        ConfigurationError: a parameter is outside its range.
    """

    quantile: float = 0.5  # gamma: the share of units whose norm shall be at most C
    learning_rate: float = 0.2  # eta
    bit_noise: float | None = None  # sigma_b; None for the paper's m/20

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ConfigurationError(
                f"strategy.clip_quantile={self.quantile}: must lie between 0 and 1."
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigurationError(
                f"strategy.clip_learning_rate={self.learning_rate}: must be positive and finite."
            )
        if self.bit_noise is not None and not 0 < self.bit_noise < math.inf:
            raise ConfigurationError(
                f"strategy.clip_bit_noise={self.bit_noise}: must be positive and finite, or null "
                "for a twentieth of the expected units."
            )

    def bit_std(self, expected_units: float) -> float:
        """sigma_b: standard deviation of the noise on the sum of bits."""
        return expected_units / 20 if self.bit_noise is None else self.bit_noise

    def update_multiplier(self, noise_multiplier: float, expected_units: float) -> float:
        """z_D: noise on the sum of updates, over C, so that both queries together cost z.

        Args:
            noise_multiplier: z.
            expected_units: m.

        Raises:
            ConfigurationError: the clip bits alone would cost more than z.
        """
        std = self.bit_std(expected_units)
        share = BIT_SENSITIVITY * noise_multiplier / std  # (z / (2 sigma_b))
        if share >= 1:
            raise ConfigurationError(
                f"strategy.clip_bit_noise={std:g}: must be above half of "
                f"privacy.noise_multiplier={noise_multiplier:g}, or the clip bits alone cost more "
                f"than the round; give strategy.clip_bit_noise={2 * noise_multiplier:.3g}, a "
                "larger cohort, or leave out strategy.clip_quantile."
            )
        return noise_multiplier / math.sqrt(1 - share**2)

    def largest_step(self, expected_units: float) -> float:
        """Bound on ``|log(C' / C)|`` in one round, at any cohort and noise that ever happen.

        ``|b - gamma| <= 1 + n / (2 m) + noise``, where n is the realised number of units.
        """
        m, rare = expected_units, MOST_DEVIATIONS**2 / 2  # an event of probability exp(-rare)
        units = m + rare / 3 + math.sqrt((rare / 3) ** 2 + 2 * m * rare)  # Bernstein's inequality
        noise = MOST_DEVIATIONS * self.bit_std(m)
        return self.learning_rate * (1 + (units / 2 + noise) / m)

    def next_norm(self, clip_norm: float, unclipped_fraction: float) -> float:
        """C of the next round, from this round's noised fraction of unclipped units."""
        return clip_norm * math.exp(-self.learning_rate * (unclipped_fraction - self.quantile))
