"""Group-relative advantages: A = (R - mean) / std over the responses of one prompt (Ring-lite, arXiv 2506.14731, GRPO).

A group whose rewards are all equal says nothing about which response was better: its advantages are zero, and the
caller drops and counts it. A response whose verifier failed has no reward: it takes no part in the mean, and gets None.
Dividing by the group's deviation also brings rewards of any scale (a rule's 0 and 1, a reward model's logits, in any
domain) to one scale, so no further normalisation stands between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Rewards closer than this are equal: a reward model's rounding must not become an advantage of one.
EQUAL_REWARDS = 1e-6


@dataclass(frozen=True)
class GroupAdvantages:
    """advantages: one per response, None where the reward was missing. informative: False when rewards are equal."""

    advantages: tuple[float | None, ...]
    informative: bool


def group_advantages(rewards: Sequence[float | None], by_deviation: bool = True) -> GroupAdvantages:
    """Advantages of one prompt's responses. rewards: None where the verifier failed.

    by_deviation: divide by the group's deviation; False leaves R - mean(R), as Dr.GRPO does (arXiv 2503.20783).
    """
    known = np.array([reward for reward in rewards if reward is not None], dtype=np.float64)
    if known.size < 2 or np.ptp(known) < EQUAL_REWARDS:
        return GroupAdvantages(tuple(None if reward is None else 0.0 for reward in rewards), informative=False)
    mean, deviation = known.mean(), known.std() if by_deviation else 1.0
    return GroupAdvantages(
        tuple(None if reward is None else float((reward - mean) / deviation) for reward in rewards), informative=True
    )
