"""Requests and samples that pass between the controller, the engines and the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `stop_token_ids` end a response and are part of it."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class SampleRequest:
    """One response to draw. `prompt`: token ids. `seed`: its own random stream, so batching never changes the draw."""

    request_id: str
    prompt: list[int]
    seed: int


@dataclass(frozen=True)
class Sample:
    """One response as an engine drew it.

    tokens: [length] token ids, with the stop token when finish == "stop".
    logprobs: [length] processed log-probs of the engine (behaviour policy) for those tokens.
    version: weight version that drew them.
    """

    request_id: str
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
    version: int
    experts: list[list[int]] | None = field(default=None)
