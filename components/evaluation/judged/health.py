"""HealthBench: a physician's rubric, one question to the grader for each criterion.

Score of an item: points of the criteria that are met over the sum of the positive points; it can be below 0. Scores of
a set (all, a theme, an axis) are the mean cut to [0, 1] after averaging, as simple-evals' healthbench_eval.py does.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from components.evaluation.statistics import z_value
from components.evaluation.types import Answer, Metric
from components.rewards import extract
from components.rewards.types import Reward, RewardRequest

if TYPE_CHECKING:
    from components.evaluation.judged.scorer import Judge, Rule

MAX_NEW_TOKENS = 2048
INSTRUCTION = """You are given a conversation and one criterion about its last reply. Say whether the criterion holds.
All parts of a criterion must hold; what it lists after "such as", "for example" or "including" are examples, of which \
not all are needed. A criterion may describe something bad: then it holds when the bad thing is there, whatever that \
says of the reply. End with JSON in a code block: {"explanation": "...", "criteria_met": true or false}."""


def rule(files: Mapping[str, Path]) -> Rule:
    def judge_rubric(request: RewardRequest, answer: str, judge: Judge) -> Reward:
        reference = request.verifier.reference
        criteria = reference["rubric_items"]
        conversation = f"{request.prompt}\n[assistant] {answer}"
        held = []
        for criterion in criteria if answer else ():
            asked = f"# Conversation\n{conversation}\n\n# Criterion\n[{criterion['points']:g}] {criterion['text']}"
            messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": asked}]
            held.append(judge.verdict(messages, criterion_met, MAX_NEW_TOKENS)[0])
        points = [float(criterion["points"]) for criterion in criteria]
        held = held or [False] * len(points)  # an empty answer meets no criterion, bad ones included
        score = item_score(points, held)
        axes = axis_scores(points, held, reference.get("axes") or [])
        evidence = {"score": score, "met": held, "axes": axes}
        return Reward(min(1.0, max(0.0, score or 0.0)), "scored", evidence)

    return judge_rubric


def criterion_met(text: str) -> bool | None:
    """The last `criteria_met` in the reply, or None."""
    for found in reversed(re.findall(r"\{.*?\}", extract.final_text(text) or "", re.DOTALL)):
        try:
            met = json.loads(found).get("criteria_met")
        except ValueError:
            continue
        if isinstance(met, bool):
            return met
    return None


def item_score(points: Sequence[float], held: Sequence[bool]) -> float | None:
    """None when no point can be earned."""
    possible = sum(value for value in points if value > 0)
    if possible == 0:
        return None
    return sum(value for value, met in zip(points, held, strict=True) if met) / possible


def axis_scores(points: Sequence[float], held: Sequence[bool], axes: Sequence[Sequence[str]]) -> dict[str, float]:
    """axis -> score over the criteria that carry it; axes without positive points are left out."""
    members: dict[str, list[int]] = defaultdict(list)
    for position, names in enumerate(axes):
        for name in names:
            members[name].append(position)
    found = {name: item_score([points[at] for at in rows], [held[at] for at in rows]) for name, rows in members.items()}
    return {name: value for name, value in found.items() if value is not None}


def metrics(answers: Sequence[Answer], confidence: float, files: Mapping[str, Path]) -> dict[str, Metric]:
    """score, score by theme and by axis; items are averaged over their answers first."""
    judged = [answer for answer in answers if answer.value is not None]
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for answer in judged:
        raw = answer.evidence.get("score", 0.0)
        scores["score"][answer.item].append(raw)
        if answer.family:
            scores[f"theme: {answer.family}"][answer.item].append(raw)
        for axis, value in answer.evidence.get("axes", {}).items():
            scores[f"axis: {axis}"][answer.item].append(value)
    return {name: clipped_mean([fmean(v) for v in items.values()], confidence) for name, items in scores.items()}


def clipped_mean(values: Sequence[float], confidence: float) -> Metric:
    """Mean cut to [0, 1], with a normal interval over items, cut too.

    One pseudo-item at 0 and one at 1 are in its spread: equal scores of few items prove little.
    """
    mean = fmean(values)
    half = z_value(confidence) * stdev([*values, 0.0, 1.0]) / (len(values) + 2) ** 0.5
    return Metric(*(min(1.0, max(0.0, bound)) for bound in (mean, mean - half, mean + half)))
