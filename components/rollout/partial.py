"""Partial rollouts on one vLLM: requests that are decoded for a while, left, and decoded on later.

Between two calls a request may simply stay in vLLM, paused because nobody steps it; it goes on with its own generator
and cache. After new weights (Engine.load_weights) it is taken up from its tokens instead: prompt and drawn tokens are
prefilled under the new weights, so no key or value of another version is ever attended to. Under the same weights that
prefill is cheap, since vLLM finds the blocks in its prefix cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from components.failures import BadInput, DeadlineExceeded, IntegrityError
from components.rollout.types import Progress, SampleRequest, Sampling, Until

# Odd, so that seeds of different positions of one response differ; the golden ratio's bits spread them.
SEED_STEP = 0x9E3779B97F4A7C15


@dataclass
class _Live:
    """A request inside vLLM. total: tokens of the response so far, those drawn before included. new: this call's."""

    total: int
    new: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None


class PartialDecoder:
    """Decodes requests in slices on a vLLM engine that nobody else steps in between."""

    def __init__(self, engine: Any, max_model_len: int) -> None:
        self._engine, self._max_model_len = engine, max_model_len
        self._live: dict[str, _Live] = {}

    def advance(
        self, requests: Sequence[SampleRequest], sampling: Sampling, version: int, until: Until, deadline_s: float
    ) -> list[Progress]:
        """Decodes until `until` says so and returns what was drawn, in the order of `requests`.

        Places are given in the order of `requests`. Running requests that are no longer asked for are ended.

        Raises:
            IntegrityError: a running request has other tokens than the caller believes.
            BadInput: a prompt and its answer do not fit the context.
            DeadlineExceeded: not reached after `deadline_s`; everything running is ended.
        """
        asked = {request.request_id: request for request in requests}
        self._end([name for name in self._live if name not in asked])
        for request in requests:
            self._start(request, sampling)
        started, counted = time.monotonic(), 0
        while self._live and (until.tokens is None or counted < until.tokens):
            seconds = time.monotonic() - started
            if until.seconds is not None and seconds >= until.seconds:
                break
            if seconds > deadline_s:
                left = len(self._live)
                self.pause()
                raise DeadlineExceeded(f"{left} of {len(requests)} partial rollouts unfinished after {deadline_s:g} s")
            counted += self._step(until)
            if all(live.finish for live in self._live.values()):
                break
        progress = []
        for name in asked:
            live = self._live[name]
            if live.new:
                progress.append(Progress(name, live.new, live.logprobs, live.finish, version))
            if live.finish:
                del self._live[name]
            else:
                live.new, live.logprobs = [], []
        return progress

    def pause(self) -> None:
        """Ends everything running: what was drawn was returned."""
        self._end(list(self._live))

    def _start(self, request: SampleRequest, sampling: Sampling) -> None:
        live = self._live.get(request.request_id)
        if live is not None:
            if live.total != len(request.drawn):
                raise IntegrityError(
                    f"request {request.request_id} has {live.total} tokens here, the caller says {len(request.drawn)}"
                )
            return
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        check_fits(request, sampling, self._max_model_len)
        arguments = sampling_arguments(request, sampling)
        self._engine.add_request(
            request.request_id,
            TokensPrompt(prompt_token_ids=[*request.prompt, *request.drawn]),
            SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA),
        )
        self._live[request.request_id] = _Live(len(request.drawn))

    def _step(self, until: Until) -> int:
        """One decoding step; what it adds to the count."""
        counted = 0
        for output in self._engine.step():
            live, drawn = self._live[output.request_id], output.outputs[0]
            tokens = [int(token) for token in drawn.token_ids]
            live.new += tokens
            live.logprobs += drawn_logprobs(drawn.logprobs, tokens)
            live.total += len(tokens)
            if until.counts == "generated":
                counted += len(tokens)
            if output.finished:
                live.finish = "stop" if drawn.finish_reason == "stop" else "length"
                counted += live.total if until.counts == "finished" else 0
        return counted

    def _end(self, names: list[str]) -> None:
        if names:
            self._engine.abort_request(names)
        for name in names:
            del self._live[name]


def check_fits(request: SampleRequest, sampling: Sampling, max_model_len: int) -> None:
    """Raises BadInput unless prompt and longest answer fit the context and something is left to draw."""
    longest = request.length or sampling.max_new_tokens
    if len(request.prompt) + longest > max_model_len:
        raise BadInput(
            f"prompt of {len(request.prompt)} tokens plus {longest} new ones exceeds the context of {max_model_len}",
            where=f"request {request.request_id}",
            remedy="Lower max_new_tokens, drop long prompts, or raise model.max_position",
        )
    if len(request.drawn) >= longest:
        raise BadInput(f"{len(request.drawn)} tokens of {longest} are drawn", where=f"request {request.request_id}")


def sampling_arguments(request: SampleRequest, sampling: Sampling) -> dict[str, Any]:
    """Arguments of vLLM's SamplingParams. A response taken up again has another seed than its first token had."""
    longest = request.length or sampling.max_new_tokens
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": longest - len(request.drawn),
        "stop_token_ids": [] if request.length else list(sampling.stop_token_ids),
        "ignore_eos": True,
        "seed": (request.seed + SEED_STEP * len(request.drawn)) % 2**63,
        "logprobs": 0,
        "flat_logprobs": True,
        "detokenize": False,
    }


def drawn_logprobs(logprobs: Any, tokens: list[int]) -> list[float]:
    """The log-prob of each drawn token. vLLM's flat form holds the drawn token first at every position."""
    values = []
    for position, token in enumerate(tokens):
        start = logprobs.start_indices[position]
        if logprobs.token_ids[start] != token:
            raise IntegrityError(f"vLLM's log-prob at position {position} is not for the drawn token {token}")
        values.append(float(logprobs.logprobs[start]))
    return values
