"""Sentences by which statement and model card describe a run of any mechanism.

A mechanism replaces those that differ. The argument ``facts`` is the statement or the header of a
ledger, so that `userdp verify` needs no more than the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ADAPTED = "the clip norm after every round, and the noised share of unclipped units that it follows"


class Description:
    """The sentences of a subsampled Gaussian mechanism over privacy units."""

    @classmethod
    def clip_sentence(cls, facts: Mapping[str, Any]) -> str:
        """How a unit's update is clipped, as a part of the sentence "the update is ...".

        Args:
            facts: a statement.
        """
        return f"clipped to an L2 norm of {facts['clip_norm']} over all adapter weights together"

    @classmethod
    def noise_sentence(cls, facts: Mapping[str, Any]) -> str:
        """How noise is added to the sum, as a part of the sentence "the sum is released ...".

        Args:
            facts: a statement; ``mechanism_details`` holds what `details` returned.
        """
        parameters = facts["adaptive_clip"] or facts["mechanism_details"]
        std = parameters.get("update_noise_multiplier", facts["noise_multiplier"])
        return f"with Gaussian noise of standard deviation {std} times the clip norm added to it"

    @classmethod
    def release_sentence(cls, facts: Mapping[str, Any], noised: str) -> str:
        """What a round releases.

        Args:
            facts: a statement.
            noised: `noise_sentence`, or "without noise", and the denominator.
        """
        return f"the sum is released {noised}"

    @classmethod
    def assumptions(cls, facts: Mapping[str, Any]) -> Sequence[str]:
        """Assumptions of the claim that only this mechanism makes; ``facts``: a header."""
        return []

    @classmethod
    def also_released(cls, facts: Mapping[str, Any]) -> Sequence[str]:
        """What every round publishes beside the adapter; ``facts``: a header."""
        return [ADAPTED] if facts["adaptive_clip"] else []
