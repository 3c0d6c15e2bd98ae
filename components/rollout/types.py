"""Requests and samples that pass between the controller, the engines and the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `stop_token_ids` end a response and are part of it."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class SampleRequest:
    """One response to draw.

    prompt: token ids.
    seed: its own random stream, so batching never changes the draw.
    drawn: tokens of the response that exist already, by whatever version; the next token follows them.
    length: draw exactly this many tokens in all, stop tokens or not (for measurements); None: until it ends.
    """

    request_id: str
    prompt: list[int]
    seed: int
    drawn: list[int] = field(default_factory=list)
    length: int | None = None


@dataclass(frozen=True)
class Until:
    """When `advance` returns: after `tokens`, counted as `counts` says, or `seconds`; None: when all requests ended.

    counts: "generated" counts every drawn token, "finished" the whole length of responses that ended.
    """

    tokens: int | None = None
    counts: Literal["finished", "generated"] = "generated"
    seconds: float | None = None


@dataclass(frozen=True)
class Progress:
    """What `advance` drew for one request: new tokens and their processed log-probs, all by `version`.

    finish: None while the response goes on.
    """

    request_id: str
    tokens: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"] | None
    version: int


@dataclass(frozen=True)
class Sample:
    """One response as an engine drew it.

    tokens: [length] token ids, with the stop token when finish == "stop".
    logprobs: [length] processed log-probs of the engine (behaviour policy) for those tokens.
    version: weight version that drew them; the last one of a response that several versions drew.
    versions: [length] version of every token; None: all by `version`.
    experts: [prompt + length - 1, sparse layers, topk], which experts the engine chose for every token it computed;
        None where it does not tell (components.rollout.routing).
    """

    request_id: str
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
    version: int
    experts: np.ndarray | None = field(default=None)
    versions: list[int] | None = field(default=None)
