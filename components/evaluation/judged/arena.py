"""Arena-Hard v2: the model's answer against a baseline's, judged in both orders, a strong verdict counted three times.

Score, interval and style control follow arena-hard-auto's show_result.py: every verdict becomes one value (1, 0.5 or 0
for the model), three equal ones when it is strong; the win rate is their mean. Style control (Li et al. 2024) fits a
Bradley-Terry model with the differences in length and Markdown as features and reads the win rate at no difference.
Length is
counted in words here and in tokens of one vendor's tokenizer there, whose table is no file of ours: the feature is a
relative difference, so only answers of unlike make (code against prose) change it, and the controlled rate compares
with the leaderboard's nearly, not exactly. Intervals resample prompts, not verdicts: the verdicts of one prompt are not
independent. The judge's instruction is in our words; scores compare with the leaderboard only under the same judge and,
strictly, its own prompt (file `prompt`). Who says nothing has lost clearly in both orders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.evaluation.types import Answer, Metric
from components.failures import BadInput
from components.rewards.types import Reward, RewardRequest

if TYPE_CHECKING:
    from components.evaluation.judged.scorer import Judge, Rule

STRONG = 3
ROUNDS = 1000
SEED = 20240601
LABELS = {"A>>B": 2, "A>B": 1, "A=B": 0, "B=A": 0, "B>A": -1, "B>>A": -2, "A<B": -1, "A<<B": -2, "B<A": 1, "B<<A": 2}
MAX_NEW_TOKENS = 8192
FEATURES = ("length", "headers", "lists", "bold")

INSTRUCTION = """Two assistants, A and B, answered the same user. Judge impartially which answer serves the user better.
{first}Weigh correctness before anything else, then how well the answer fits what was asked, how complete it is, and \
whether it is as short as it can be; in creative work also originality. Neither the order nor the length of the \
answers may influence you. Explain briefly, then end with exactly one of these labels:
[[A>>B]] A is much better; [[A>B]] A is a little better; [[A=B]] about equal; [[B>A]] B is a little better; \
[[B>>A]] B is much better."""
SOLVE_FIRST = "Before you judge, write your own answer, and check both answers against it. "
QUESTION = "<|User prompt|>\n{question}\n\n<|Answer of A|>\n{a}\n<|End of A|>\n\n<|Answer of B|>\n{b}\n<|End of B|>"
_LABEL = re.compile(r"\[\[\s*([AB](?:>>|<<|>|<|=)[AB])\s*\]\]")


def rule(files: Mapping[str, Path]) -> Rule:
    from components.evaluation.judged.scorer import needed_file

    path = needed_file(files, "baseline", "arena-hard-v2", "the baseline's answers, JSON lines {uid, answer}")
    baseline = read_baseline(path)
    template = files["prompt"].read_text() if "prompt" in files else None

    def judge_pair(request: RewardRequest, answer: str, judge: Judge) -> Reward:
        reference = request.verifier.reference
        uid = str(reference["uid"])
        if uid not in baseline:
            raise BadInput("the baseline has no answer to this prompt", where=f"{path}: {uid}")
        if not answer:
            styles = {"style": style(""), "baseline_style": style(baseline[uid])}
            return Reward(0.0, "no-answer", {"values": battle_values("A>>B", "B>>A"), **styles})
        first = SOLVE_FIRST if reference.get("category") != "creative_writing" else ""
        system = template or INSTRUCTION.format(first=first)
        verdicts = []
        # First the baseline as A, then the model: position cancels out.
        for a, b in ((baseline[uid], answer), (answer, baseline[uid])):
            messages = [
                {"role": "system", "content": system},
                {"role": "user", "content": QUESTION.format(question=request.prompt, a=a, b=b)},
            ]
            verdicts.append(judge.verdict(messages, label, MAX_NEW_TOKENS)[0])
        values = battle_values(verdicts[0], verdicts[1])
        evidence = {
            "verdicts": verdicts,
            "values": values,
            "style": style(answer),
            "baseline_style": style(baseline[uid]),
        }
        mean = sum(values) / len(values)
        return Reward(mean, "scored", evidence)

    return judge_pair


def label(text: str) -> str | None:
    """The last label of a reply, or None."""
    found = [name for name in _LABEL.findall(text.upper()) if name in LABELS]
    return found[-1] if found else None


def battle_values(baseline_first: str, model_first: str) -> list[float]:
    """Values for the model of both verdicts, the strong ones three times. Labels as the judge saw the order."""
    values: list[float] = []
    for lead in (LABELS[model_first], -LABELS[baseline_first]):
        value = 0.5 if lead == 0 else float(lead > 0)
        values += [value] * (STRONG if abs(lead) == 2 else 1)
    return values


def metrics(answers: Sequence[Answer], confidence: float, files: Mapping[str, Path]) -> dict[str, Metric]:
    """win rate, style-controlled win rate, and win rate by category, with bootstrap intervals over prompts."""
    judged = [answer for answer in answers if answer.value is not None and "values" in answer.evidence]
    if not judged:
        return {}
    found = {"win rate": _win_rate(judged, confidence)}
    controlled = style_controlled(judged, confidence)
    if controlled is not None:
        found["win rate, style controlled"] = controlled
    for category in dict.fromkeys(answer.family for answer in judged):
        found[f"win rate, {category}"] = _win_rate([a for a in judged if a.family == category], confidence)
    return found


def _win_rate(answers: Sequence[Answer], confidence: float) -> Metric:
    sums = np.array([[sum(a.evidence["values"]), len(a.evidence["values"])] for a in answers], dtype=np.float64)
    drawn = np.random.default_rng(SEED).integers(0, len(sums), size=(ROUNDS, len(sums)))
    totals = sums[drawn].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Metric(float(sums[:, 0].sum() / sums[:, 1].sum()), float(low), float(high))


def style(answer: str) -> list[int]:
    """[words, headers, list items, bold spans]; code blocks hold no Markdown."""
    text = re.sub(r"```.*?(?:```|\Z)", "", answer, flags=re.DOTALL)
    return [
        len(answer.split()),
        len(re.findall(r"^#{1,6}\s", text, re.MULTILINE)),
        len(re.findall(r"^\s*(?:\d+\.|[-*+])\s", text, re.MULTILINE)),
        len(re.findall(r"\*\*[^*\n]+\*\*|__[^_\n]+__", text)),
    ]


def style_features(model: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """[battles, 4] standardised relative differences: of the length, and of the densities of Markdown."""
    features = np.zeros_like(model, dtype=np.float64)
    features[:, 0] = (model[:, 0] - baseline[:, 0]) / (model[:, 0] + baseline[:, 0])
    ours, theirs = model[:, 1:] / (model[:, :1] + 1), baseline[:, 1:] / (baseline[:, :1] + 1)
    features[:, 1:] = (ours - theirs) / (ours + theirs + 1)
    deviation = features.std(axis=0, ddof=1)
    return (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)


def fit_strength(features: np.ndarray, outcomes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[1 + features] logistic coefficients, the model's strength first; Newton's method, a whisper of ridge so that a
    model that always wins has a finite strength."""
    design = np.column_stack([np.ones(len(features)), features])
    coefficients = np.zeros(design.shape[1])
    ridge = 1e-3 * np.eye(design.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        gradient = design.T @ (weights * (outcomes - chance)) - ridge @ coefficients
        curvature = design.T @ (design * (weights * chance * (1 - chance))[:, None]) + ridge
        step = np.linalg.solve(curvature, gradient)
        coefficients = coefficients + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return coefficients


def style_controlled(answers: Sequence[Answer], confidence: float, rounds: int = 100) -> Metric | None:
    """None with too few battles to fit five coefficients."""
    rows = [(at, value) for at, answer in enumerate(answers) for value in answer.evidence["values"]]
    if len(answers) < 20:
        return None
    owner, outcomes = np.array([at for at, _ in rows]), np.array([value for _, value in rows])
    ours = np.array([answer.evidence["style"] for answer in answers], dtype=np.float64)[owner]
    theirs = np.array([answer.evidence["baseline_style"] for answer in answers], dtype=np.float64)[owner]
    features = style_features(ours, theirs)

    def rate(weights: np.ndarray) -> float:
        return float(1 / (1 + np.exp(-fit_strength(features, outcomes, weights)[0])))

    random = np.random.default_rng(SEED)
    drawn = [np.bincount(random.integers(0, len(answers), len(answers)), minlength=len(answers)) for _ in range(rounds)]
    low, high = np.quantile(
        [rate(count[owner].astype(float)) for count in drawn], [(1 - confidence) / 2, (1 + confidence) / 2]
    )
    return Metric(rate(np.ones(len(rows))), float(low), float(high))


def read_baseline(path: Path) -> dict[str, str]:
    """uid -> answer, from JSON lines {uid, answer}, or the leaderboard's own files (messages with content.answer)."""
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row: dict[str, Any] = json.loads(line)
            answer = row["answer"] if "answer" in row else row["messages"][-1]["content"]
            answer = answer["answer"] if isinstance(answer, dict) else answer
            if not isinstance(answer, str):
                raise TypeError("the answer is no text")
            found[str(row["uid"])] = answer
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BadInput(f"uid and answer are expected: {error}", where=f"{path}:{number}") from error
    return found
