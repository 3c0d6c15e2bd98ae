"""Runs benchmarks: samples every answer, scores it, and keeps what is finished across a kill -9.

Answers of all benchmarks go to the engines together in large waves, longest first, so that short benchmarks fill the
gaps of long ones; after each wave the finished answers enter the resume area and are never drawn again. Every answer
has a seed of its own made from (stage seed, benchmark, item, sample), so batching, order and resuming change nothing,
and two models are compared on common random numbers.

A verifier that fails is retried once; more failures than `max_error_fraction` stop the stage as an infrastructure
failure. An error is never a wrong answer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from components.artifacts.context import StageContext
from components.data.schema import BenchmarkItem, Message
from components.evaluation.scores import summarise
from components.evaluation.types import Answer, Evaluation, Outcome, read_answers, write_answers
from components.failures import BadInput, InfrastructureError
from components.model.tokenizer import decode_response, encode_prompt
from components.recipe.evaluation import EvaluationConfig
from components.rewards.types import Reward, RewardRequest, Scorer
from components.rollout.types import Sample, SampleRequest, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Waves of four times what the engines decode together: the idle tail of a wave stays a small part of it, and a kill
# loses at most one wave.
WAVE_FACTOR = 4
VERIFY_DEADLINE_S = 10.0


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


def evaluate(
    engines: Engines,
    codec: Codec,
    items: Mapping[str, list[BenchmarkItem]],
    config: EvaluationConfig,
    scorer: Scorer,
    context: StageContext,
    settings: Mapping[str, Any] | None = None,
    max_error_fraction: float = 0.02,
) -> Evaluation:
    """Evaluates one model on all benchmarks.

    Args:
        engines: hold the model's weights already.
        items: benchmark name -> items; the first `config.items` of each are used.
        settings: further facts that make the score what it is (contract, weights), recorded with it.

    Raises:
        BadInput: no items, two items of one id, or a prompt that leaves no room for `max_new_tokens`.
        InfrastructureError: engines failed, or more than `max_error_fraction` of the answers could not be verified.
    """
    plan = _plan(items, codec, config, context.seed)
    answers = {answer.key: answer for answer in _resumed(context) if answer.key in plan}
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens, codec.stop_token_ids)
    # A long prompt or a high level usually means a long answer; starting it first shortens the tail.
    todo = sorted((key for key in plan if key not in answers), key=lambda key: plan[key].expected_length, reverse=True)
    wave = WAVE_FACTOR * context.execution.engines * context.execution.max_num_seqs
    started, drawn = time.monotonic(), 0
    context.progress(len(answers), len(plan), "answers")
    for start in range(0, len(todo), wave):
        context.check()
        keys = todo[start : start + wave]
        requests = [SampleRequest("|".join(map(str, key)), plan[key].tokens, plan[key].seed) for key in keys]
        samples = engines.generate(requests, sampling, context.execution.step_deadline_s)
        if len(samples) != len(keys):
            raise InfrastructureError(f"the engines returned {len(samples)} answers for {len(keys)} requests")
        by_request = {sample.request_id: sample for sample in samples}
        fresh = [
            _answer(key, plan[key], by_request[request.request_id], codec)
            for key, request in zip(keys, requests, strict=True)
        ]
        drawn += sum(answer.tokens for answer in fresh)
        answers.update((answer.key, answer) for answer in _verified(fresh, plan, scorer))
        _keep(answers, context)
        rate = drawn / (time.monotonic() - started)
        context.progress(len(answers), len(plan), f"answers, {rate:,.0f} tokens/s")
    failed = [answer for answer in answers.values() if answer.outcome == "error"]
    if failed:
        answers.update((answer.key, answer) for answer in _verified(failed, plan, scorer))
    ordered = [answers[key] for key in plan]
    _check_errors(ordered, max_error_fraction)
    facts = config.model_dump(mode="json") | {"seed": context.seed} | dict(settings or {})
    return summarise(ordered, facts, config.confidence)


def codec_for(tokenizer: PreTrainedTokenizerFast, context_length: int) -> Codec:
    """The model's own tokenizer and chat template."""
    return Codec(
        encode=lambda messages: encode_prompt(tokenizer, messages),
        decode=lambda tokens: decode_response(tokenizer, tokens),
        stop_token_ids=(tokenizer.eos_token_id,),
        context_length=context_length,
    )


def answer_seed(seed: int, benchmark: str, item: str, sample: int) -> int:
    """31-bit seed of one answer."""
    digest = hashlib.sha256(f"{seed}\x00{benchmark}\x00{item}\x00{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class _Planned:
    item: BenchmarkItem
    tokens: list[int]
    seed: int

    @property
    def expected_length(self) -> tuple[int, int]:
        return self.item.level, len(self.tokens)


def _plan(
    items: Mapping[str, list[BenchmarkItem]], codec: Codec, config: EvaluationConfig, seed: int
) -> dict[tuple[str, str, int], _Planned]:
    plan: dict[tuple[str, str, int], _Planned] = {}
    for benchmark, members in items.items():
        if not members:
            raise BadInput("the benchmark has no items", where=benchmark, remedy="Remove it or give it items")
        for item in members[: config.items]:
            tokens = codec.encode(item.prompt)
            if len(tokens) + config.max_new_tokens > codec.context_length:
                raise BadInput(
                    f"a prompt of {len(tokens)} tokens and max_new_tokens={config.max_new_tokens} exceed the context "
                    f"length of {codec.context_length}",
                    where=f"{benchmark}: item {item.id}",
                    remedy="Lower evaluate.max_new_tokens or raise model.max_position",
                )
            for sample in range(config.samples):
                key = (benchmark, item.id, sample)
                if key in plan:
                    raise BadInput("two items have the same id", where=f"{benchmark}: item {item.id}")
                plan[key] = _Planned(item, tokens, answer_seed(seed, *key))
    if not plan:
        raise BadInput("there is no benchmark to evaluate on", remedy="The corpus artifact holds none in benchmarks/")
    return plan


def _answer(key: tuple[str, str, int], planned: _Planned, sample: Sample, codec: Codec) -> Answer:
    item = planned.item
    return Answer(
        benchmark=key[0],
        item=item.id,
        sample=key[2],
        domain=item.domain,
        family=item.family,
        level=item.level,
        seed=planned.seed,
        prompt=_prompt_text(item),
        response=codec.decode(sample.tokens),
        reference=_reference_text(item),
        verdict="error",
        outcome="error",
        value=None,
        finish=sample.finish,
        tokens=len(sample.tokens),
    )


def _verified(answers: list[Answer], plan: Mapping[tuple[str, str, int], _Planned], scorer: Scorer) -> list[Answer]:
    requests = [
        RewardRequest(
            request_id="|".join(map(str, answer.key)),
            prompt=answer.prompt,
            response=answer.response,
            verifier=plan[answer.key].item.verifier,
            truncated=answer.finish == "length",
        )
        for answer in answers
    ]
    rewards = scorer.score(requests, VERIFY_DEADLINE_S)
    if len(rewards) != len(answers):
        raise InfrastructureError(f"the scorer returned {len(rewards)} verdicts for {len(answers)} answers")
    return [
        replace(
            answer,
            verdict=reward.verdict,
            outcome=_outcome(reward, answer.finish),
            value=None if reward.value is None else min(1.0, max(0.0, float(reward.value))),
            evidence=dict(reward.evidence),
        )
        for answer, reward in zip(answers, rewards, strict=True)
    ]


def _outcome(reward: Reward, finish: str) -> Outcome:
    if reward.value is None:
        return "error"
    if reward.value >= 1:
        return "correct"
    if finish == "length":
        return "truncated"
    return {"no-answer": "no-answer", "scored": "scored"}.get(reward.verdict, "wrong")


def _check_errors(answers: list[Answer], bound: float) -> None:
    errors = [answer for answer in answers if answer.outcome == "error"]
    if len(errors) > bound * len(answers):
        first = errors[0]
        raise InfrastructureError(
            f"{len(errors)} of {len(answers)} answers could not be verified (at most {bound:.1%} may): first "
            f"{first.benchmark}, item {first.item}: {first.evidence or 'no evidence'}"
        )


def _resumed(context: StageContext) -> list[Answer]:
    point = context.resume.latest()
    return read_answers(point.path / "answers.jsonl") if point else []


def _keep(answers: Mapping[tuple[str, str, int], Answer], context: StageContext) -> None:
    directory = context.scratch / "finished"
    write_answers(directory / "answers.jsonl", list(answers.values()))
    context.resume.save(len(answers), directory, {"answers": len(answers)})


def _prompt_text(item: BenchmarkItem) -> str:
    if len(item.prompt) == 1:
        return item.prompt[0].content
    return "\n".join(f"[{message.role}] {message.content}" for message in item.prompt)


def _reference_text(item: BenchmarkItem) -> str:
    reference = item.verifier.reference
    return str(reference["answer"]) if "answer" in reference else ""
