"""A proof: a judge marks it from 0 to 7, with the reference answer or marking scheme where there is one.

Used for IMO 2025. Marks of a model are not marks of people: the judge's name stands beside every score, and the
published results of contests are those of human markers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from components.evaluation.agentic import FULL, GRADE, Grade, read_grade
from components.evaluation.types import Answer, Metric
from components.rewards.types import Reward, RewardRequest

if TYPE_CHECKING:
    from components.evaluation.judged.scorer import Judge, Rule

MAX_NEW_TOKENS = 16_384


def rule(files: Mapping[str, Path]) -> Rule:
    def judge_proof(request: RewardRequest, answer: str, judge: Judge) -> Reward:
        if not answer:
            return Reward(0.0, "no-answer", {"points": 0.0})
        known = request.verifier.reference.get("answer")
        problem = request.prompt + (f"\n\n(The right final answer is known: {known})" if known else "")
        messages = [{"role": "user", "content": GRADE.format(problem=problem, solution=answer)}]
        grade: Grade = judge.verdict(messages, read_grade, MAX_NEW_TOKENS)[0]
        verdict = "correct" if grade.points >= FULL else "scored"
        return Reward(grade.points / FULL, verdict, {"points": grade.points, "gaps": grade.gaps})

    return judge_proof


def metrics(answers: Sequence[Answer], confidence: float, files: Mapping[str, Path]) -> dict[str, Metric]:
    """points: sum over problems of the mean over attempts. best points: of the best attempt. solved: full marks."""
    marks: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.value is not None:
            marks[answer.item].append(FULL * answer.value)
    if not marks:
        return {}
    return {
        "points": Metric(sum(fmean(found) for found in marks.values()), unit="count"),
        "best points": Metric(sum(max(found) for found in marks.values()), unit="count"),
        "solved in any attempt": Metric(float(sum(max(found) >= FULL for found in marks.values())), unit="count"),
    }
