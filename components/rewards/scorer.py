"""Rule-based rewards: dispatch by the verifier's kind, cheap checks inline, expensive ones in killable processes.

One batch is scored in three steps: everything that text and exact numbers decide; then all programs through the sandbox
and all symbolic comparisons through the checkers, at the same time, each distinct pair once; then the answers in the
order of the requests. A failure of the machine was tried twice and is the verdict `error`, with no value.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from components.failures import InfrastructureError
from components.rewards import extract
from components.rewards.code import code_job, code_limits, code_reward
from components.rewards.instruction import Mode, failed_constraints
from components.rewards.logic import gym_entry, logic_equal
from components.rewards.math import LONGEST_ANSWER, comparable, quick_equal
from components.rewards.preference import preference_score
from components.rewards.science import science_equal
from components.rewards.structured import STRUCTURED, structured_reward
from components.rewards.types import Reward, RewardRequest
from components.rewards.verify_pool import Equality, VerifyPool
from components.sandbox import Program, RunResult, Sandbox, Test, Tier

_Resolve = Callable[[], Reward]


class RuleScorer:
    """Implements `Scorer` for the verifiers math, code, logic, science, instruction and preference.

    Args:
        sandbox_workers, verify_workers: processes for programs and for symbolic comparisons; they start at first use.
            Half and a quarter of this machine's cores when absent: scoring goes on while engines decode.
        tier: weakest isolation allowed.
        fallbacks: ways to find an answer without a box; none by default, as in the paper.
        instruction_mode: of references that name none.
    """

    def __init__(
        self,
        sandbox_workers: int | None = None,
        verify_workers: int | None = None,
        *,
        tier: Tier = "strict",
        fallbacks: Collection[extract.Fallback] = (),
        instruction_mode: Mode = "strict",
    ) -> None:
        cores = len(os.sched_getaffinity(0))
        sandbox_workers = sandbox_workers or max(2, cores // 2)
        verify_workers = verify_workers or max(1, cores // 4)
        self._sandbox = Sandbox(sandbox_workers, tier)
        self._verify = VerifyPool(verify_workers, tier)
        self._logic = VerifyPool(verify_workers, tier, "logic")
        self._programs = ThreadPoolExecutor(sandbox_workers, thread_name_prefix="reward-code")
        self._fallbacks, self._instruction_mode = tuple(fallbacks), instruction_mode

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]:
        """One reward per request, in order. `deadline_s` bounds the processor time of each
        verification; real time has twice that, for a busy machine.

        Raises:
            BadInput: a verifier's reference is malformed; nothing is wrong with the response then.
        """
        batch = _Batch(self, deadline_s)
        pending = [batch.begin(request) for request in requests]
        return [reward if isinstance(reward, Reward) else reward() for reward in pending]

    def close(self) -> None:
        """Ends all processes. Safe to call twice."""
        self._programs.shutdown(wait=True, cancel_futures=True)
        self._verify.close()
        self._logic.close()
        self._sandbox.close()

    def __enter__(self) -> RuleScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Batch:
    """The work of one call of `score`: what is under way, so that equal work is done once."""

    def __init__(self, scorer: RuleScorer, deadline_s: float) -> None:
        self._scorer, self._deadline_s = scorer, deadline_s
        self._running: dict[Any, Future] = {}

    def begin(self, request: RewardRequest) -> Reward | _Resolve:
        """The reward, or a function that waits for it."""
        started = time.perf_counter()
        kind, reference = request.verifier.kind, request.verifier.reference
        if kind == "code":
            return self._code(request)
        if kind in STRUCTURED:
            return structured_reward(request)
        if kind == "preference":
            value = preference_score(reference, request.response)
            return Reward(value, "scored", {"rubric": reference["rubric"]}, time.perf_counter() - started)
        if kind == "instruction":
            text = extract.final_text(request.response)
            if text is None or not text.strip():
                return self._no_answer(request)
            mode = reference.get("mode") or self._scorer._instruction_mode
            failed = failed_constraints(text, reference, mode)
            verdict, evidence = "wrong" if failed else "correct", {"failed": failed, "mode": mode}
            return Reward(float(not failed), verdict, evidence, time.perf_counter() - started)
        answer = extract.answer(request.response, self._scorer._fallbacks)
        if answer is None:
            return self._no_answer(request)
        if kind == "logic" and "entry" in reference:
            asked = {"entry": gym_entry(reference), "answer": answer[:LONGEST_ANSWER]}
            return self._judged(self._scorer._logic, asked, "reasoning-gym")
        expected = str(reference["answer"])
        if kind == "logic":
            equal: bool | None = logic_equal(answer, expected)
        elif kind == "science":
            equal = science_equal(answer, reference)
        else:
            equal = quick_equal(answer, expected)
        if equal is None:
            return self._symbols(*comparable(answer, expected))
        return _rule_reward(equal, {"answer": answer[:LONGEST_ANSWER]}, time.perf_counter() - started)

    def _no_answer(self, request: RewardRequest) -> Reward:
        return Reward(0.0, "no-answer", {"truncated": request.truncated})

    def _symbols(self, answer: str, expected: str) -> _Resolve:
        return self._judged(self._scorer._verify, {"reference": expected, "answer": answer}, "math-verify")

    def _judged(self, pool: VerifyPool, asked: dict[str, Any], method: str) -> _Resolve:
        """The verdict of a killable process; equal questions are asked once."""
        key = (method, json.dumps(asked, sort_keys=True))
        if key not in self._running:
            self._running[key] = pool.submit(asked, 2 * self._deadline_s)
        future: Future[Equality] = self._running[key]

        def resolve() -> Reward:
            evidence: dict[str, Any] = {"answer": asked["answer"], "method": method}
            try:
                outcome = future.result()
            except InfrastructureError as error:
                return Reward(None, "error", {**evidence, "problem": str(error)})
            if outcome.problem:
                evidence["problem"] = outcome.problem
            if outcome.score is not None:
                evidence["score"] = outcome.score
            return _rule_reward(outcome.equal, evidence, 0.0)

        return resolve

    def _code(self, request: RewardRequest) -> Reward | _Resolve:
        reference = request.verifier.reference
        job = code_job(request.response, reference)
        if job is None:
            return self._no_answer(request)
        program, tests = job
        key = ("code", program.language, program.source, json.dumps(reference, sort_keys=True))
        if key not in self._running:
            self._running[key] = self._scorer._programs.submit(self._run, program, tests, reference)
        future: Future[RunResult] = self._running[key]

        def resolve() -> Reward:
            try:
                return code_reward(future.result(), len(tests))
            except InfrastructureError as error:
                return Reward(None, "error", {"problem": str(error)})

        return resolve

    def _run(self, program: Program, tests: tuple[Test, ...], reference: dict[str, Any]) -> RunResult:
        limits = code_limits(reference, self._deadline_s)
        return self._scorer._sandbox.run(program, tests, limits, stop_at_first_failure=True)


def _rule_reward(equal: bool, evidence: dict[str, Any], seconds: float) -> Reward:
    return Reward(float(equal), "correct" if equal else "wrong", evidence, seconds)


def open_scorer(
    sandbox_workers: int | None = None,
    verify_workers: int | None = None,
    *,
    tier: Tier = "strict",
    fallbacks: Collection[extract.Fallback] = (),
    instruction_mode: Mode = "strict",
) -> RuleScorer:
    """A rule scorer; close it, or use it in a `with` statement. Nothing starts before the first expensive check."""
    return RuleScorer(
        sandbox_workers, verify_workers, tier=tier, fallbacks=fallbacks, instruction_mode=instruction_mode
    )
