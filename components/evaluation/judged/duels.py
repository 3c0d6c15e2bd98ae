"""Creative Writing v3, second half: pieces against those of rated models, in both orders, and the Elo that follows.

A judge names for each criterion the better writer and by how much (one to five `+`); `coherence` and the two criteria
about restraint count against the other writer as well. Both orders are added up. As creative-writing-bench does, a win
by d marks of 45 is worth ceil(4 d / 45) wins, at least one, at most four; texts are cut to 4000 characters, and seven
prompts are left out. It rates all models of its leaderboard together (TrueSkill, prior N(1200, 400), two anchors); here
the rivals keep the ratings that their file gives, and ours is the most probable one under the same prior, with a
bootstrap over prompts. The judge's reasoning holds no marks, so it is not counted.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluation.statistics import z_value
from components.evaluation.types import Answer, Metric
from components.failures import BadInput
from components.rewards import extract

OURS, THEIRS = "A0493", "A0488"
ALSO_AGAINST = frozenset({"avoids_poetic_overload", "coherence", "avoids_verbosity"})
NO_CRITERIA = frozenset({"chain_of_thought_reasoning", "improvement_suggestions", "theory_of_mind"})
LEFT_OUT = frozenset({"5", "16", "20", "21", "26", "28", "30"})
MOST_MARKS, MOST_WINS, CHARACTERS = 45, 4, 4000
PRIOR_MEAN, PRIOR_DEVIATION = 1200.0, 400.0
ROUNDS, SEED = 1000, 20240601
FIELDS = ("{writing_prompt}", "{model_a_analysis}", "{model_b_analysis}")


@dataclass(frozen=True)
class Rival:
    """pieces: prompt id -> texts, by sample."""

    model: str
    rating: float
    pieces: Mapping[str, tuple[str, ...]]

    def piece(self, prompt: str, sample: int) -> str | None:
        found = self.pieces.get(prompt, ())
        return found[sample % len(found)] if found else None


def read_rivals(path: Path) -> list[Rival]:
    """JSON lines {"model", "rating", "prompt_id", "text"}, one a piece. Raises BadInput with file and line."""
    ratings: dict[str, float] = {}
    pieces: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            model, rating, text = str(row["model"]), float(row["rating"]), row["text"]
            if not isinstance(text, str) or not text.strip():
                raise TypeError("text is empty")
            if ratings.setdefault(model, rating) != rating:
                raise ValueError(f"{model} has two ratings")
            pieces[model][str(row["prompt_id"])].append(text)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"no piece of a rival: {type(error).__name__}: {error}", where=f"{path}:{number}") from error
    return [Rival(model, ratings[model], {k: tuple(v) for k, v in found.items()}) for model, found in pieces.items()]


def marks(text: str) -> tuple[int, int] | None:
    """(marks of writer A, of writer B) in a judge's reply; None when it names no writer for any criterion."""
    found = re.search(r"\{.*\}", extract.final_text(text) or "", re.DOTALL)
    try:
        verdicts: Any = json.loads(found.group()) if found else None
    except ValueError:
        return None
    if not isinstance(verdicts, dict):
        return None
    scores, named = {OURS: 0, THEIRS: 0}, False
    for criterion, verdict in verdicts.items():
        if criterion in NO_CRITERIA or not isinstance(verdict, str):
            continue
        better = next((writer for writer in (OURS, THEIRS) if writer in verdict), None)
        if better is None:
            continue
        named, count = True, verdict.count("+")
        scores[better] += count
        if criterion in ALSO_AGAINST:
            scores[THEIRS if better == OURS else OURS] -= count
    return (scores[OURS], scores[THEIRS]) if named else None


def duel(template: str, prompt: str, ours: str, theirs: str, judge: Any, max_new_tokens: int) -> tuple[int, int]:
    """Marks of our piece and of the rival's, both orders together; all to the rival when ours is empty.

    Raises InfrastructureError without a verdict.
    """
    if not ours:
        return 0, MOST_MARKS
    total = np.zeros(2, dtype=int)
    for flipped in (False, True):
        a, b = (theirs, ours) if flipped else (ours, theirs)
        asked = template
        for field, value in zip(FIELDS, (prompt, a[:CHARACTERS], b[:CHARACTERS]), strict=True):
            asked = asked.replace(field, value)
        first, second = judge.verdict([{"role": "user", "content": asked}], marks, max_new_tokens)[0]
        total += (second, first) if flipped else (first, second)
    return int(total[0]), int(total[1])


def outcome(ours: int, theirs: int) -> tuple[float, int]:
    """(1, 0 or 1/2 for us; how many games it is worth). A tie is one game won and one lost."""
    margin = abs(ours - theirs)
    if margin == 0:
        return 0.5, 2
    return float(ours > theirs), max(1, min(MOST_WINS, math.ceil(MOST_WINS * margin / MOST_MARKS)))


def rating(outcomes: np.ndarray, wins: np.ndarray, rivals: np.ndarray) -> float:
    """The most probable rating: Elo's logistic against rivals of known rating, with the prior. Arrays of one length."""
    scale = math.log(10) / 400
    value = PRIOR_MEAN
    for _ in range(50):
        expected = 1 / (1 + np.exp(-scale * (value - rivals)))
        slope = scale * float((wins * (outcomes - expected)).sum()) - (value - PRIOR_MEAN) / PRIOR_DEVIATION**2
        step = max(-400.0, min(400.0, slope * _deviation(value, wins, rivals) ** 2))
        value += step
        if abs(step) < 1e-9:
            break
    return value


def _deviation(value: float, wins: np.ndarray, rivals: np.ndarray) -> float:
    """Of a rating, from the curvature of its probability."""
    scale = math.log(10) / 400
    expected = 1 / (1 + np.exp(-scale * (value - rivals)))
    return float((scale**2 * (wins * expected * (1 - expected)).sum() + 1 / PRIOR_DEVIATION**2) ** -0.5)


def elo(answers: Sequence[Answer], confidence: float) -> Metric | None:
    """From evidence `duels` of answers, [{rating, ours, theirs}]; None without any. The interval resamples prompts."""
    by_prompt: dict[str, list[tuple[float, int, float]]] = defaultdict(list)
    for answer in answers:
        for found in answer.evidence.get("duels", ()):
            by_prompt[answer.item].append((*outcome(found["ours"], found["theirs"]), float(found["rating"])))
    if not by_prompt:
        return None
    groups = [np.array(rows, dtype=np.float64) for rows in by_prompt.values()]
    random = np.random.default_rng(SEED)
    drawn = [
        rating(*np.concatenate([groups[at] for at in random.integers(0, len(groups), len(groups))]).T)
        for _ in range(ROUNDS)
    ]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    every = np.concatenate(groups).T
    value = rating(*every)
    # Where all prompts agree nothing varies when they are drawn again: never narrower than the games themselves allow.
    half = z_value(confidence) * _deviation(value, every[1], every[2])
    return Metric(value, min(float(low), value - half), max(float(high), value + half), "rating")
