"""Judged benchmarks: verdicts to scores as the reference implementations have them, and a judge that fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.data.schema import Verifier
from components.evaluation.benchmark import find
from components.evaluation.benchmark_data import read_benchmark
from components.evaluation.judged import arena, creative, health
from components.evaluation.judged.scorer import JudgedScorer
from components.failures import BadInput, InfrastructureError
from components.rewards.types import RewardRequest
from tests.components.evaluation.answers import answer

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "benchmarks"


class Scripted:
    """A judge whose reply is a function of what it is asked."""

    def __init__(self, reply: Callable[[list[dict]], str]) -> None:
        self.reply = reply
        self.asked: list[list[dict]] = []

    def verdict(self, messages, read, max_new_tokens):
        self.asked.append(list(messages))
        found = read(self.reply(messages))
        if found is None:
            raise InfrastructureError("no verdict in the form asked for")
        return found, []


# ---- Arena-Hard


@pytest.mark.parametrize(
    ("baseline_first", "model_first", "values"),
    [
        ("B>A", "A>B", [1, 1]),
        ("B>>A", "A>>B", [1, 1, 1, 1, 1, 1]),
        ("A>>B", "A>B", [1, 0, 0, 0]),
        ("A=B", "B>A", [0, 0.5]),
        ("A<<B", "B<A", [1, 1, 1, 1]),
    ],
)
def test_a_strong_verdict_counts_three_times(baseline_first: str, model_first: str, values: list[float]) -> None:
    assert arena.battle_values(baseline_first, model_first) == values


def test_labels_are_read_from_the_end() -> None:
    assert arena.label("[[A>B]] at first, but on reflection [[ b>>a ]]") == "B>>A"
    assert arena.label("A is better") is None


def test_style_control_is_the_logistic_fit_of_the_reference() -> None:
    """Coefficients of arena-hard-auto's fit_pairwise_model on the same battles (its LBFGS, 500 iterations)."""
    random = np.random.default_rng(0)
    columns = ((50, 800), (0, 6), (0, 20), (0, 15))
    ours, base = (
        np.stack([random.integers(low, high, 60) for low, high in columns], 1).astype(float) for _ in range(2)
    )
    lead = (ours[:, 0] - base[:, 0]) / (ours[:, 0] + base[:, 0])
    outcomes = (random.random(60) < 1 / (1 + np.exp(-(0.4 + 0.8 * lead)))).astype(float)
    found = arena.fit_strength(arena.style_features(ours, base), outcomes, np.ones(60))
    assert found == pytest.approx([-0.1267, 0.2801, -1.3352, 0.5824, 0.2741], abs=5e-3)


def test_longer_answers_win_less_once_style_is_controlled() -> None:
    """A model that wins where it is longer, nine times in ten, owes most of its wins to length."""
    judged = []
    for number in range(180):
        longer = number % 3 != 0
        won = longer != (number % 10 == 1)
        style = [400 if longer else 100, number % 5, number % 7, number % 4]
        evidence = {"values": [float(won)] * 2, "style": style, "baseline_style": [200, 2, 3, 1]}
        judged.append(answer("arena-hard-v2", str(number), 0, float(won), "hard_prompt", **evidence))
    found = arena.metrics(judged, 0.95, {})
    share = sum(item.value for item in judged) / len(judged)
    assert found["win rate"].value == pytest.approx(share)
    assert found["win rate"].low < share < found["win rate"].high
    controlled = found["win rate, style controlled"]
    assert controlled.low < controlled.value < controlled.high
    assert [round(item.evidence["style"][0]) for item in judged[:3]] == [100, 400, 400]


def test_both_orders_are_asked_and_position_cancels_out(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.jsonl"
    baseline.write_text(json.dumps({"uid": "u", "answer": "the old answer"}) + "\n")
    judge = Scripted(lambda messages: "whatever stands first: [[A>>B]]")
    scorer = JudgedScorer(judge, {"arena-hard-v2.baseline": baseline})
    scorer.check({"arena"})
    verifier = Verifier(kind="judged", reference={"rule": "arena", "uid": "u", "category": "hard_prompt"})
    (reward,) = scorer.score([RewardRequest("r", "why?", "<think>hm</think>the new answer", verifier)], 5)
    assert reward.value == 0.5
    shown = [messages[1]["content"] for messages in judge.asked]
    assert shown[0].index("the old answer") < shown[0].index("the new answer")
    assert shown[1].index("the new answer") < shown[1].index("the old answer")
    assert not any("hm" in text for text in shown), "reasoning is not judged"
    missing = Verifier(kind="judged", reference={"rule": "arena", "uid": "x"})
    with pytest.raises(BadInput, match=r"baseline.jsonl: x"):
        scorer.score([RewardRequest("r", "why?", "because", missing)], 5)
    scorer.close()


# ---- HealthBench


@pytest.mark.parametrize(
    ("met", "score"),
    [
        (lambda item, n, points: n % 2 == 0, 0.4055405319125359),
        (lambda item, n, points: (n + item) % 3 == 0, 0.2554312639568367),
        (lambda item, n, points: points < 0, 0.0),
        (lambda item, n, points: True, 0.6992190948007074),
    ],
)
def test_health_scores_equal_simple_evals(met, score: float) -> None:
    """Numbers of simple-evals' calculate_score and clipped mean over the same items and grades."""
    path = DATA / "healthbench_sample.jsonl"
    if not path.exists():
        pytest.skip("shared/data is absent")
    answers = []
    for number, item in enumerate(read_benchmark(find("healthbench"), str(path)).items):
        points = [criterion["points"] for criterion in item.verifier.reference["rubric_items"]]
        held = [met(number, n, value) for n, value in enumerate(points)]
        raw = health.item_score(points, held)
        answers.append(answer("healthbench", item.id, 0, min(1.0, max(0.0, raw)), item.family, score=raw))
    found = health.metrics(answers, 0.95, {})
    assert found["score"].value == pytest.approx(score, abs=1e-12)
    assert any(name.startswith("theme: ") for name in found)


def test_every_criterion_is_asked_alone_and_bad_ones_take_points_off() -> None:
    criteria = [{"text": "asks back", "points": 6}, {"text": "is rude", "points": -4}, {"text": "cites", "points": 4}]
    verifier = Verifier(
        kind="judged", reference={"rule": "health", "rubric_items": criteria, "axes": [["a"], ["b"], ["a"]]}
    )

    def reply(messages: list[dict]) -> str:
        held = "cites" not in messages[1]["content"]
        return f'```json\n{{"explanation": "so", "criteria_met": {str(held).lower()}}}\n```'

    judge = Scripted(reply)
    scorer = JudgedScorer(judge, {})
    (reward,) = scorer.score([RewardRequest("r", "help", "ok", verifier)], 5)
    assert len(judge.asked) == 3
    assert reward.evidence["score"] == pytest.approx(0.2)
    assert reward.evidence["axes"] == {"a": 0.6}
    scorer.close()


# ---- Creative Writing


REPLY = """Analysis: a fine piece, 3 scenes.

Adherence to Instructions: 15
Believable Character Actions: Score 12.5
Nuanced Characters: [14]
Purple Prose: 6
Weak Dialogue: 25
Overall Reader Engagement: 13"""


def test_pieces_score_as_the_reference_does() -> None:
    """13.7 of 20, 68.5 in percent: creative-writing-bench's scoring of the same reply."""
    names = ["Adherence to Instructions", "Believable Character Actions", "Nuanced Characters", "Purple Prose",
             "Weak Dialogue", "Overall Reader Engagement"]  # fmt: skip
    scores = creative.reader(names)(REPLY)
    assert scores == {names[0]: 15, names[1]: 12.5, names[2]: 14, names[3]: 6, names[5]: 13}
    value = creative.piece_score(scores, frozenset({"Purple Prose", "Weak Dialogue"}))
    assert value == pytest.approx(13.7)
    pieces = [answer("creative-writing-v3", "1", 0, value / 20), answer("creative-writing-v3", "2", 0, value / 20)]
    assert 100 * creative.metrics(pieces, 0.95, {})["rubric"].value == pytest.approx(68.5)
    assert creative.reader(names)("I like it. Adherence to Instructions: 15") is None


def test_samples_take_the_seeds_in_turn() -> None:
    benchmark = find("creative-writing-v3")
    item = benchmark.item(
        {"prompt_id": "1", "writing_prompt": "Write. <SEED> 1000 words.", "seed_modifiers": ["On a ship.", "At night."]}
    )
    asked = [benchmark.ask(item, sample)[0].content for sample in range(3)]
    assert asked == ["Write. On a ship. 1000 words.", "Write. At night. 1000 words.", "Write. On a ship. 1000 words."]


# ---- a judge that fails


@pytest.mark.parametrize("reply", ["nonsense", ""])
def test_no_verdict_is_a_judge_failure_and_no_score(reply: str) -> None:
    verifier = Verifier(
        kind="judged", reference={"rule": "health", "rubric_items": [{"text": "x", "points": 1}], "axes": [[]]}
    )
    scorer = JudgedScorer(Scripted(lambda messages: reply), {})
    (reward,) = scorer.score([RewardRequest("r", "q", "a", verifier)], 5)
    assert (reward.value, reward.verdict, reward.evidence["judge_failure"]) == (None, "error", True)
    scorer.close()


def test_a_missing_judge_or_file_is_told_before_anything_is_sampled() -> None:
    with pytest.raises(BadInput, match=r"evaluate.judge.*--judge"):
        JudgedScorer(None, {}).check({"health"})
    with pytest.raises(BadInput, match=r"arena-hard-v2.baseline"):
        JudgedScorer(Scripted(lambda messages: ""), {}).check({"arena"})
