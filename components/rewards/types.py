"""The reward protocol: a verdict with evidence and cost, or an infrastructure error, which is never a reward of 0.

In: prompt, response, reference (with the verifier that reads it) and context (domain, group, truncation). Out: value,
verdict, evidence, cost. A failure of the machine is retried by the scorer, then it is the verdict "error": the sample
is masked out of training and listed apart in evaluation, and the guard stops a run in which too many fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from components.data.schema import Verifier

Verdict = Literal["correct", "wrong", "no-answer", "scored", "error"]


@dataclass(frozen=True)
class Reward:
    """value: in [0, 1] for rule verifiers and judges, any float for a reward model or normalised parts; None exactly
    when verdict == "error". evidence: everything the verdict rests on, JSON-able. seconds, tokens: what it cost, in
    real time and in a judge's tokens.
    """

    value: float | None
    verdict: Verdict
    evidence: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0

    def __post_init__(self) -> None:
        if (self.value is None) != (self.verdict == "error"):
            raise ValueError(f"a reward has no value exactly when its verdict is 'error': {self}")


@dataclass(frozen=True)
class RewardRequest:
    """`response`: decoded text of the assistant turn without the end-of-turn token. The context of a sample:
    `truncated`: it hit the limit; `domain` of its prompt; `group`: equal for the responses to one drawn prompt.
    """

    request_id: str
    prompt: str
    response: str
    verifier: Verifier
    truncated: bool = False
    domain: str = ""
    group: str = ""


class Scorer(Protocol):
    """Scores many responses at once, in order, within `deadline_s` each; never raises for a single bad response."""

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]: ...

    def close(self) -> None: ...


@runtime_checkable
class GroupScorer(Scorer, Protocol):
    """A scorer that compares responses: where `needs_group` holds, all those to one drawn prompt come in one call."""

    def needs_group(self, domain: str, verifier: Verifier) -> bool: ...
