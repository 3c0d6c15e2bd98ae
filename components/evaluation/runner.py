"""Runs benchmarks: samples every answer, scores it, and keeps what is finished across a kill -9.

Answers of all benchmarks go to the engines together in large waves, longest first, so that short benchmarks fill the
gaps of long ones; after each wave (every few seconds from an endpoint, after every attempt of several agents) the
finished answers enter the resume area and are never drawn again. Every answer has a seed of its own made from (stage
seed, benchmark, item, sample), so batching, order and resuming change nothing, and two models are compared on common
random numbers.

A verifier that fails is retried once; more failures than `max_error_fraction` stop the stage as an infrastructure
failure. An error is never a wrong answer. What is asked of the judge is decided before anything is sampled.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.artifacts.context import StageContext
from components.data.schema import BenchmarkItem, Message
from components.evaluation.pace import Pace
from components.evaluation.sampler import Codec, Draw, Drawing, Drawn, Engines, EngineSampler, Sampler, in_parts
from components.evaluation.scores import summarise
from components.evaluation.suite import Suite, suites_of, with_agents
from components.evaluation.types import Answer, Evaluation, Outcome, read_answers, write_answers
from components.failures import BadInput, InfrastructureError
from components.recipe.evaluation import EvaluationConfig
from components.rewards.types import Reward, RewardRequest, Scorer

VERIFY_DEADLINE_S = 10.0
# A standard benchmark may be cut to a short context, but not to less than this many tokens of an answer.
LEAST_NEW_TOKENS = 16
TRACES = "traces"  # folder of an evaluation: what agents wrote, one file an answer


def evaluate(
    engines: Engines,
    codec: Codec,
    items: Mapping[str, list[BenchmarkItem]],
    config: EvaluationConfig,
    scorer: Scorer,
    context: StageContext,
    settings: Mapping[str, Any] | None = None,
    max_error_fraction: float = 0.02,
    files: Mapping[str, Path] | None = None,
) -> Evaluation:
    """Evaluates one model on all benchmarks with our engines, which hold the model's weights already; see `run_suites`.

    items: benchmark name -> items; the first `config.items` of each are used.
    """
    suites = suites_of(items, config)
    engine = EngineSampler(engines, codec, context.execution)
    sampler = with_agents(engine, suites, config.agentic, context.output / TRACES)
    return run_suites(sampler, suites, config, scorer, context, settings, max_error_fraction, files)


def run_suites(
    sampler: Sampler,
    suites: list[Suite],
    config: EvaluationConfig,
    scorer: Scorer,
    context: StageContext,
    settings: Mapping[str, Any] | None = None,
    max_error_fraction: float = 0.02,
    files: Mapping[str, Path] | None = None,
) -> Evaluation:
    """Draws, checks and sums up every answer.

    Args:
        settings: further facts that make the score what it is (contract, weights), recorded with it.
        files: `benchmark.file` -> path, for metrics.

    Raises:
        BadInput: no items, two items of one id, or a prompt that leaves no room for its answer.
        InfrastructureError: engines failed, or more than `max_error_fraction` of the answers could not be verified.
    """
    plan = _plan(suites, sampler, context.seed)
    answers = {answer.key: answer for answer in _resumed(context) if answer.key in plan}
    todo = [key for key in plan if key not in answers]
    pace = Pace((key[0], plan[key].item.level) for key in todo)
    context.progress(len(answers), len(plan), "answers")
    for drawing, keys in _waves(todo, plan, sampler.wave):
        context.check()
        asked = {"|".join(map(str, key)): key for key in keys}
        requests = [Draw(name, plan[key].messages, plan[key].seed) for name, key in asked.items()]
        for part in in_parts(sampler, requests, drawing):
            fresh = [_answer(key := asked.pop(drawn.request_id), plan[key], drawn) for drawn in part]
            pace.drawn(((answer.benchmark, answer.level), answer.tokens) for answer in fresh)
            answers.update((answer.key, answer) for answer in _verified(fresh, plan, scorer))
            _keep(answers, context)
            context.progress(len(answers), len(plan), pace.text())
            context.check()
        if asked:
            raise InfrastructureError(f"{len(asked)} answers did not come back, the first of them {next(iter(asked))}")
    failed = [answer for answer in answers.values() if answer.value is None]
    if failed:
        answers.update((answer.key, answer) for answer in _verified(failed, plan, scorer))
    ordered = [answers[key] for key in plan]
    _check_errors(ordered, max_error_fraction)
    facts = config.model_dump(mode="json") | {"seed": context.seed} | dict(settings or {})
    facts["suites"] = {suite.name: suite.settings() for suite in suites}
    return summarise(ordered, facts, config.confidence, files)


def answer_seed(seed: int, benchmark: str, item: str, sample: int) -> int:
    """31-bit seed of one answer."""
    digest = hashlib.sha256(f"{seed}\x00{benchmark}\x00{item}\x00{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


Key = tuple[str, str, int]


@dataclass(frozen=True)
class _Planned:
    item: BenchmarkItem
    messages: tuple[Message, ...]
    length: int
    seed: int
    drawing: Drawing

    @property
    def expected_length(self) -> tuple[int, int]:
        return self.item.level, self.length


def _plan(suites: list[Suite], sampler: Sampler, seed: int) -> dict[Key, _Planned]:
    plan: dict[Key, _Planned] = {}
    for suite in suites:
        drawing = _drawing(suite, sampler)
        for item in suite.items:
            for sample in range(suite.samples):
                key = (suite.name, item.id, sample)
                if key in plan:
                    raise BadInput("two items have the same id", where=f"{suite.name}: item {item.id}")
                messages = suite.messages(item, sample)
                length = sum(len(message.content) for message in messages)
                plan[key] = _Planned(item, messages, length, answer_seed(seed, *key), drawing)
    if not plan:
        raise BadInput("there is no benchmark to evaluate on", remedy="The corpus artifact holds none in benchmarks/")
    return plan


def _drawing(suite: Suite, sampler: Sampler) -> Drawing:
    """The suite's, cut for all items alike to the room that its longest prompt leaves where that may be."""
    rooms = {item.id: sampler.room(suite.messages(item, 0)) for item in suite.items}
    known = {item: room for item, room in rooms.items() if room is not None}
    if not known:
        return suite.drawing
    longest = min(known, key=lambda item: known[item])
    room, wanted = known[longest], suite.drawing.max_new_tokens
    if room >= wanted:
        return suite.drawing
    if suite.fit and room >= LEAST_NEW_TOKENS:
        return replace(suite.drawing, max_new_tokens=room)
    raise BadInput(
        f"its prompt leaves {max(room, 0)} tokens for the answer: max_new_tokens={wanted} would exceed the context "
        f"length of {sampler.context_length}",
        where=f"{suite.name}: item {longest}",
        remedy="Lower evaluate.max_new_tokens, raise model.max_position, or leave long questions out: max_tokens of "
        "the benchmark under corpus.benchmarks",
    )


def _waves(todo: list[Key], plan: Mapping[Key, _Planned], size: int) -> Iterator[tuple[Drawing, list[Key]]]:
    """Answers drawn alike go together. A long prompt or a high level usually means a long answer: those start first,
    which shortens the tail."""
    alike: dict[Drawing, list[Key]] = defaultdict(list)
    for key in todo:
        alike[plan[key].drawing].append(key)
    for drawing, keys in alike.items():
        keys.sort(key=lambda key: plan[key].expected_length, reverse=True)
        for start in range(0, len(keys), size):
            yield drawing, keys[start : start + size]


def _answer(key: Key, planned: _Planned, drawn: Drawn) -> Answer:
    item = planned.item
    return Answer(
        benchmark=key[0],
        item=item.id,
        sample=key[2],
        domain=item.domain,
        family=item.family,
        level=item.level,
        seed=planned.seed,
        prompt=prompt_text(planned.messages),
        response=drawn.text,
        reference=_reference_text(item),
        verdict="error",
        outcome="error",
        value=None,
        finish=drawn.finish,
        tokens=drawn.tokens,
    )


def _verified(answers: list[Answer], plan: Mapping[Key, _Planned], scorer: Scorer) -> list[Answer]:
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
        return "judge-failed" if reward.evidence.get("judge_failure") else "error"
    if reward.value >= 1:
        return "correct"
    if finish in ("length", "refused"):
        return "truncated" if finish == "length" else "refused"
    return {"no-answer": "no-answer", "scored": "scored"}.get(reward.verdict, "wrong")


def _check_errors(answers: list[Answer], bound: float) -> None:
    errors = [answer for answer in answers if answer.value is None]
    if len(errors) > bound * len(answers):
        first = errors[0]
        raise InfrastructureError(
            f"{len(errors)} of {len(answers)} answers could not be verified (at most {bound:.1%} may): first "
            f"{first.benchmark}, item {first.item}: {first.evidence or 'no evidence'}"
        )


def _resumed(context: StageContext) -> list[Answer]:
    point = context.resume.latest()
    return read_answers(point.path / "answers.jsonl") if point else []


def _keep(answers: Mapping[Key, Answer], context: StageContext) -> None:
    directory = context.scratch / "finished"
    write_answers(directory / "answers.jsonl", list(answers.values()))
    context.resume.save(len(answers), directory, {"answers": len(answers)})


def prompt_text(messages: tuple[Message, ...]) -> str:
    """One text for a page or a judge: a lone question as it is, a conversation with its roles."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"[{message.role}] {message.content}" for message in messages)


def _reference_text(item: BenchmarkItem) -> str:
    reference = item.verifier.reference
    return str(reference["answer"]) if "answer" in reference else ""
