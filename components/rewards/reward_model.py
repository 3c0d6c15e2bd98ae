"""The trained reward model as a scorer, for open-ended prompts of general RL."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from components.rewards.types import Reward, RewardRequest

# How far below the lowest answer of its batch a response without an end is placed: the reward model never saw one, so
# its own score for it means nothing, and not ending must not pay.
UNFINISHED_PENALTY = 1.0


class RewardModelScorer:
    """Implements `Scorer`.

    Args:
        reward_model: token sequences (prompt plus response with EOS) -> rewards [sequences].
        encode: (prompt text, response text) -> token ids of both with EOS.
    """

    def __init__(
        self,
        reward_model: Callable[[Sequence[np.ndarray]], np.ndarray],
        encode: Callable[[str, str], list[int]],
    ) -> None:
        self._reward_model, self._encode = reward_model, encode

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]:
        """One reward per request, in order; `deadline_s` is for rules."""
        if not requests:
            return []
        started = time.perf_counter()
        sequences = [np.array(self._encode(request.prompt, request.response), np.int64) for request in requests]
        scores = np.asarray(self._reward_model(sequences), dtype=np.float64)
        lowest = float(scores.min()) - UNFINISHED_PENALTY
        seconds = (time.perf_counter() - started) / len(requests)
        return [
            Reward(
                value=lowest if request.truncated else float(score),
                verdict="scored",
                evidence={"reward_model": float(score), "truncated": request.truncated},
                seconds=seconds,
            )
            for request, score in zip(requests, scores, strict=True)
        ]

    def close(self) -> None:
        """The model belongs to the learners."""
