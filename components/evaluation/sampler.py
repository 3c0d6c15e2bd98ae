"""Who answers: our engines, token by token with a seed for every answer, or any OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from components.data.schema import Message
from components.failures import InfrastructureError
from components.model.tokenizer import decode_response, encode_prompt
from components.recipe.execution import ExecutionConfig
from components.rollout.types import Sample, SampleRequest, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Waves of four times what the engines decode together: the idle tail of a wave stays a small part of it, and a kill
# loses at most one wave.
WAVE_FACTOR = 4


@dataclass(frozen=True)
class Drawing:
    """How the answers of a benchmark are drawn."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Draw:
    """One answer to draw. request_id: unique in the run. seed: 31 bits."""

    request_id: str
    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True)
class Drawn:
    """One answer. tokens: its length, stop token included. finish: `refused` when the model or a filter declined."""

    request_id: str
    text: str
    tokens: int
    finish: Literal["stop", "length", "refused"]


class Sampler(Protocol):
    """wave: how many answers are asked for together. context_length: None where only the endpoint knows."""

    wave: int
    context_length: int | None

    def room(self, messages: tuple[Message, ...]) -> int | None:
        """Tokens that the context leaves after this prompt; None where only the endpoint knows."""

    def draw(self, requests: list[Draw], drawing: Drawing) -> list[Drawn]:
        """One answer per request, in order. Raises InfrastructureError when one could not be had."""


@runtime_checkable
class InParts(Protocol):
    """A sampler whose answers come one by one: what is there can be kept before the rest of its wave is."""

    def parts(self, requests: list[Draw], drawing: Drawing) -> Iterator[list[Drawn]]:
        """All answers, in any order, some at a time. Raises InfrastructureError when one could not be had."""


def in_parts(sampler: Sampler, requests: list[Draw], drawing: Drawing) -> Iterator[list[Drawn]]:
    """The answers as they come; in one part where the sampler has them together."""
    if isinstance(sampler, InParts):
        yield from sampler.parts(requests, drawing)
    elif requests:
        yield sampler.draw(requests, drawing)


class Engines(Protocol):
    """The part of components.rollout's EngineGroup an evaluation needs."""

    def generate(self, requests: list[SampleRequest], sampling: Sampling, deadline_s: float) -> list[Sample]: ...


@dataclass(frozen=True)
class Codec:
    """Text to tokens and back. `encode` renders messages with the chat template up to the assistant's turn."""

    encode: Callable[[tuple[Message, ...]], list[int]]
    decode: Callable[[list[int]], str]
    stop_token_ids: tuple[int, ...]
    context_length: int


def codec_for(tokenizer: PreTrainedTokenizerFast, context_length: int) -> Codec:
    """The model's own tokenizer and chat template."""
    return Codec(
        encode=lambda messages: encode_prompt(tokenizer, messages),
        decode=lambda tokens: decode_response(tokenizer, tokens),
        stop_token_ids=(tokenizer.eos_token_id,),
        context_length=context_length,
    )


class EngineSampler:
    """engines: hold the model's weights already."""

    def __init__(self, engines: Engines, codec: Codec, execution: ExecutionConfig) -> None:
        self._engines, self._codec = engines, codec
        self._deadline_s = execution.step_deadline_s
        self.context_length: int | None = codec.context_length
        self.wave = WAVE_FACTOR * execution.engines * execution.max_num_seqs

    def room(self, messages: tuple[Message, ...]) -> int:
        return self._codec.context_length - len(self._codec.encode(messages))

    def draw(self, requests: list[Draw], drawing: Drawing) -> list[Drawn]:
        sampling = Sampling(drawing.temperature, drawing.top_p, drawing.max_new_tokens, self._codec.stop_token_ids)
        asked = [SampleRequest(r.request_id, self._codec.encode(r.messages), r.seed) for r in requests]
        samples = {sample.request_id: sample for sample in self._engines.generate(asked, sampling, self._deadline_s)}
        if len(samples) != len(requests):
            raise InfrastructureError(f"the engines returned {len(samples)} answers for {len(requests)} requests")
        found = [samples[request.request_id] for request in requests]
        return [
            Drawn(sample.request_id, self._codec.decode(sample.tokens), len(sample.tokens), sample.finish)
            for sample in found
        ]
