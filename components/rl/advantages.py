"""Group-relative advantages: A = (R - mean) / std over the responses of one prompt (Ring-lite, arXiv 2506.14731, GRPO).

A group whose rewards are all equal says nothing about which response was better: its advantages are zero, and the
caller drops and counts it. A response whose verifier failed has no reward: it takes no part in the mean, and gets None.
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


def group_advantages(rewards: Sequence[float | None]) -> GroupAdvantages:
    """Advantages of one prompt's responses. rewards: None where the verifier failed. Deviation over the group."""
    known = np.array([reward for reward in rewards if reward is not None], dtype=np.float64)
    if known.size < 2 or np.ptp(known) < EQUAL_REWARDS:
        return GroupAdvantages(tuple(None if reward is None else 0.0 for reward in rewards), informative=False)
    mean, deviation = known.mean(), known.std()
    return GroupAdvantages(
        tuple(None if reward is None else float((reward - mean) / deviation) for reward in rewards), informative=True
    )


def normalise_by_domain(values: Sequence[float], domains: Sequence[str]) -> list[float]:
    """Reward-model scores brought to mean 0 and deviation 1 inside each domain of one step's batch.

    A reward model's scale is arbitrary and drifts between domains; rule rewards are left alone by the caller.
    """
    result = np.zeros(len(values))
    values_array, domains_array = np.asarray(values, dtype=np.float64), np.asarray(domains)
    for domain in set(domains):
        chosen = domains_array == domain
        part = values_array[chosen]
        result[chosen] = (part - part.mean()) / max(part.std(), EQUAL_REWARDS)
    return result.tolist()
