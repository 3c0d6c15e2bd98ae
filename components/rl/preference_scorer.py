"""General RL rewards: the reward model where people's preference is the judge, rule verifiers everywhere else.

The reference of a preference prompt holds the generator's gold judge, which evaluation asks and training must never
see: such prompts are routed to the reward model by their kind alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from components.rewards.types import Reward, RewardRequest, Scorer

# How far below the lowest answer of its batch a response without an end is placed: the reward model never saw one, so
# its own score for it means nothing, and not ending must not pay.
UNFINISHED_PENALTY = 1.0


class PreferenceScorer:
    """Scorer that sends `preference` requests to a reward model and the rest to a rule scorer.

    Args:
        rules: scorer of the other kinds; closed together with this one.
        reward_model: token sequences (prompt plus response with EOS) -> rewards [sequences].
        encode: (prompt text, response text) -> token ids of both with EOS.
    """

    def __init__(
        self,
        rules: Scorer,
        reward_model: Callable[[Sequence[np.ndarray]], np.ndarray],
        encode: Callable[[str, str], list[int]],
    ) -> None:
        self._rules, self._reward_model, self._encode = rules, reward_model, encode

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]:
        preferred = [i for i, request in enumerate(requests) if request.verifier.kind == "preference"]
        others = [i for i, request in enumerate(requests) if request.verifier.kind != "preference"]
        rewards = dict(zip(others, self._rules.score([requests[i] for i in others], deadline_s), strict=True))
        rewards |= dict(zip(preferred, self._preferences([requests[i] for i in preferred]), strict=True))
        return [rewards[i] for i in range(len(requests))]

    def close(self) -> None:
        self._rules.close()

    def _preferences(self, requests: list[RewardRequest]) -> list[Reward]:
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
