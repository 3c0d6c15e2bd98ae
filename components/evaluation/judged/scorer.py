"""Implements `Scorer` for items of kind `judged`: one rule per benchmark, many answers judged at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from components.evaluation.judged import arena, creative, health, proof
from components.failures import BadInput, InfrastructureError
from components.rewards import extract
from components.rewards.types import Reward, RewardRequest

T = TypeVar("T")
Messages = list[dict[str, str]]


class Judge(Protocol):
    """What the rules need of components.rewards.judge.Judge."""

    def verdict(
        self, messages: Messages, read: Callable[[str], T | None], max_new_tokens: int
    ) -> tuple[T, list[Any]]: ...


class Rule(Protocol):
    """request, the answer after its reasoning, the judge -> reward. Raises InfrastructureError without a verdict.

    Of an empty answer nothing is asked: it has lost or met nothing, and its evidence says so in the rule's own terms,
    for metrics that would otherwise be those of the answered questions alone.
    """

    def __call__(self, request: RewardRequest, answer: str, judge: Judge) -> Reward: ...


class JudgedScorer:
    """Args:
    judge: None refuses every judged item, before anything is sampled (`check`).
    files: `benchmark.file` -> path.
    concurrency: answers judged together.
    """

    def __init__(self, judge: Judge | None, files: Mapping[str, Path], concurrency: int = 8) -> None:
        self._judge, self._files = judge, dict(files)
        self._rules: dict[str, Rule] = {}
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="judge")

    def check(self, rules: set[str]) -> None:
        """Raises BadInput when a rule lacks its judge or a file; call it before sampling."""
        if rules and self._judge is None:
            raise BadInput(
                "these benchmarks are decided by a judge model, and none is named",
                where="evaluate.judge",
                remedy="Name one: --judge MODEL@URL, or evaluate.judge in the recipe",
            )
        for rule in rules:
            self._rule(rule)

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]:
        """In order. The judge's own deadline holds, not `deadline_s`, which is a rule verifier's."""
        return list(self._pool.map(self._one, requests))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, request: RewardRequest) -> Reward:
        answer = (extract.final_text(request.response) or "").strip()
        if self._judge is None:
            raise BadInput("no judge is named", where="evaluate.judge")
        try:
            reward = self._rule(str(request.verifier.reference["rule"]))(request, answer, self._judge)
        except InfrastructureError as error:
            return Reward(None, "error", {"judge_failure": True, "problem": str(error)})
        if answer:
            return reward
        return Reward(0.0, "no-answer", {**reward.evidence, "truncated": request.truncated})

    def _rule(self, name: str) -> Rule:
        if name not in self._rules:
            makers: dict[str, tuple[str, Callable[[Mapping[str, Path]], Rule]]] = {
                "arena": ("arena-hard-v2", arena.rule),
                "health": ("healthbench", health.rule),
                "creative": ("creative-writing-v3", creative.rule),
                "proof": ("imo25", proof.rule),
            }
            if name not in makers:
                raise BadInput(f"unknown judging rule {name!r}", where="verifier.reference.rule")
            benchmark, make = makers[name]
            own = {key.removeprefix(f"{benchmark}."): path for key, path in self._files.items()}
            self._rules[name] = make({key: path for key, path in own.items() if "." not in key})
        return self._rules[name]


def needed_file(files: Mapping[str, Path], name: str, benchmark: str, what: str) -> Path:
    """Raises BadInput that says how to give it."""
    if name not in files:
        raise BadInput(
            f"{benchmark} needs {what}",
            where=f"file {benchmark}.{name}",
            remedy=f"Give it: --file {benchmark}.{name}=PATH",
        )
    if not files[name].is_file():
        raise BadInput("there is no such file", where=str(files[name]))
    return files[name]
