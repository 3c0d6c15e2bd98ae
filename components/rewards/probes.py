"""What the data gates ask of the verifiers: do reference answers parse, do stored solutions pass their own tests.

The same checkers that will give the rewards answer, so a gate that passes says that the data can be rewarded. A failure
of the machine is an InfrastructureError, never an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from components.data.schema import RlRecord
from components.failures import InfrastructureError
from components.rewards.normalise import normal, percent, rational
from components.rewards.scorer import RuleScorer
from components.rewards.types import RewardRequest
from components.rewards.verify_pool import VerifyPool
from components.sandbox.types import Tier

_WORDS = re.compile(r"^[^\W\d_][^\W\d_ ,'-]*(?:[ ,'-]+[^\W\d_]+)*$")
DEADLINE_S = 10.0


class RewardProbes:
    """Implements components.data.gate_tables.Probes. Processes start when the first question needs one; close it.

    tier: weakest isolation allowed.
    """

    def __init__(self, tier: Tier = "strict") -> None:
        self._tier: Tier = tier
        self._verify: VerifyPool | None = None
        self._scorer: RuleScorer | None = None

    def answers_parse(self, answers: Sequence[str]) -> list[bool]:
        """Whether an answer is a number, words, or an expression that math-verify can read."""
        return [self._parses(answer) for answer in answers]

    def _parses(self, answer: str) -> bool:
        text = normal(answer)
        if rational(text) is not None or percent(text) is not None or _WORDS.match(text):
            return True
        if self._verify is None:
            self._verify = VerifyPool(tier=self._tier)
        # math-verify calls a pair equal only when it could read the reference.
        return self._verify.judge({"reference": answer, "answer": answer}, 2 * DEADLINE_S).equal

    def solutions_accepted(self, records: Sequence[RlRecord]) -> list[bool]:
        """Whether the stored solution of each code record passes all its tests, in the sandbox."""
        if self._scorer is None:
            self._scorer = RuleScorer(tier=self._tier)
        requests = [
            RewardRequest(record.id, "", _fenced(record.solution or ""), record.verifier, False) for record in records
        ]
        rewards = self._scorer.score(requests, DEADLINE_S)
        for record, reward in zip(records, rewards, strict=True):
            if reward.value is None:
                problem = reward.evidence.get("problem", "")
                raise InfrastructureError(f"the solution of record {record.id} could not be run: {problem}")
        return [reward.value == 1.0 for reward in rewards]

    def close(self) -> None:
        for pool in (self._verify, self._scorer):
            if pool is not None:
                pool.close()

    def __enter__(self) -> RewardProbes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fenced(solution: str) -> str:
    return solution if "```" in solution else f"```python\n{solution}\n```"
