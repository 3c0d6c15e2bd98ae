"""Engines and a verifier with known answers, so that scores are known exactly before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from components.data.schema import BenchmarkItem, Message, Verifier
from components.evaluation.sampler import Codec
from components.rewards.types import Reward, RewardRequest
from components.rollout.types import Sample, SampleRequest, Sampling

STOP = 3
CODEC = Codec(
    encode=lambda messages: [ord(c) for c in messages[-1].content],
    decode=lambda tokens: "".join(chr(t) for t in tokens if t != STOP),
    stop_token_ids=(STOP,),
    context_length=256,
)


def item(number: int, benchmark: str = "sums", domain: str = "math") -> BenchmarkItem:
    """`n+1=` with its sum as reference."""
    return BenchmarkItem(
        id=f"{benchmark}-{number}",
        source="test",
        domain=domain,
        family="sum",
        level=number % 3,
        prompt=(Message(role="user", content=f"{number}+1="),),
        verifier=Verifier(kind="math", reference={"answer": str(number + 1)}),
        benchmark=benchmark,
    )


@dataclass
class KnownEngines:
    """Answers `n+1=` rightly when `right(request_id)`; `cut(request_id)` answers run into the token limit."""

    right: Callable[[str], bool]
    cut: Callable[[str], bool] = lambda _: False
    die_after_calls: int | None = None
    calls: list[list[SampleRequest]] = field(default_factory=list)

    def generate(self, requests: list[SampleRequest], sampling: Sampling, deadline_s: float) -> list[Sample]:
        if self.die_after_calls is not None and len(self.calls) >= self.die_after_calls:
            raise KeyboardInterrupt("killed")
        self.calls.append(requests)
        return [self._sample(request) for request in requests]

    def _sample(self, request: SampleRequest) -> Sample:
        truth = int("".join(map(chr, request.prompt)).split("+")[0]) + 1
        text = str(truth if self.right(request.request_id) else truth + 1)
        cut = self.cut(request.request_id)
        tokens = [ord(c) for c in ("..." if cut else text)] + ([] if cut else [STOP])
        finish = "length" if cut else "stop"
        return Sample(request.request_id, request.prompt, tokens, [0.0] * len(tokens), finish, version=1)


@dataclass
class ExactScorer:
    """Right when the response is the reference; fails on the request ids `broken` says, once or for ever."""

    broken: Callable[[str], bool] = lambda _: False
    heals: bool = False
    calls: int = 0

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]:
        self.calls += 1
        return [self._one(request) for request in requests]

    def _one(self, request: RewardRequest) -> Reward:
        if self.broken(request.request_id) and not (self.heals and self.calls > 1):
            return Reward(None, "error", {"error": "verifier died"})
        if not request.response.isdigit():
            return Reward(0.0, "no-answer")
        right = request.response == request.verifier.reference["answer"]
        return Reward(float(right), "correct" if right else "wrong")

    def close(self) -> None: ...
