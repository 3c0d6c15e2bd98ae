"""The reward protocol: a verdict with evidence, or an infrastructure error, which is never a reward of 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from components.data.schema import Verifier

Verdict = Literal["correct", "wrong", "no-answer", "scored", "error"]


@dataclass(frozen=True)
class Reward:
    """value: in [0, 1] for rule verifiers, any float for a reward model; None exactly when verdict == "error".

    A sample whose verdict is "error" is masked out of training and listed apart in evaluation.
    """

    value: float | None
    verdict: Verdict
    evidence: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if (self.value is None) != (self.verdict == "error"):
            raise ValueError(f"a reward has no value exactly when its verdict is 'error': {self}")


@dataclass(frozen=True)
class RewardRequest:
    """`response`: decoded text of the assistant turn without the end-of-turn token. `truncated`: it hit the limit."""

    request_id: str
    prompt: str
    response: str
    verifier: Verifier
    truncated: bool = False


class Scorer(Protocol):
    """Scores many responses at once, in order, within `deadline_s` each; never raises for a single bad response."""

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]: ...

    def close(self) -> None: ...
