"""Creative Writing's pairwise half: marks, margins and ratings, against creative-writing-bench's own functions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.data.schema import Verifier
from components.evaluation.judged import creative, duels
from components.evaluation.judged.scorer import JudgedScorer
from components.failures import BadInput
from components.rewards.types import RewardRequest
from tests.components.evaluation.answers import answer
from tests.components.evaluation.test_judged import Scripted

PAIRWISE = "{writing_prompt}\n[WRITER A0493]\n{model_a_analysis}\n[WRITER A0488]\n{model_b_analysis}\n"


@pytest.mark.parametrize(
    ("verdicts", "marks", "outcome", "games"),
    [
        (
            {"character_authenticity_insight": "A0493++", "coherence": "A0488+++", "avoids_verbosity": "A0493+",
             "writing_quality": "A0493+++++"}, (5, 2), 1.0, 1,
        ),
        (
            {"interesting_original": "A0488+", "avoids_poetic_overload": "A0488++", "world_atmosphere": "A0488++++"},
            (-2, 7), 0.0, 1,
        ),
        (dict.fromkeys((*duels.ALSO_AGAINST, "writing_quality", "world_atmosphere"), "A0493+++++"), (25, -15), 1.0, 4),
        ({"writing_quality": "A0493++", "interesting_original": "A0488++"}, (2, 2), 0.5, 2),
    ],
)  # fmt: skip
def test_marks_and_games_are_those_of_the_reference(verdicts: dict, marks: tuple, outcome: float, games: int) -> None:
    """interpret_pairwise_result_cw, compute_fraction_for_test_cw and bin_fraction_trueskill give these numbers."""
    reply = json.dumps({"chain_of_thought_reasoning": "A0493 is +++ fine", **verdicts})
    assert duels.marks(f"<think>hm</think>```json\n{reply}\n```") == marks
    assert duels.outcome(*marks) == (outcome, games)


@pytest.mark.parametrize("reply", ["", "A is better", "{}", '{"writing_quality": "the first++"}', "[1]", "{nonsense}"])
def test_a_reply_without_a_winner_says_nothing(reply: str) -> None:
    assert duels.marks(reply) is None


def test_a_rating_is_found_again_from_its_expected_results() -> None:
    rivals = np.linspace(800, 1600, 400)
    expected = 1 / (1 + 10 ** ((rivals - 1350) / 400))
    found = duels.rating(expected, np.ones(400), rivals)
    assert found == pytest.approx(1350, abs=10), "400 games outweigh the prior"
    assert duels.rating(np.ones(1), np.ones(1), np.array([1200.0])) < 1500, "one win is no proof"
    assert duels.rating(np.array([0.5]), np.array([2.0]), np.array([1200.0])) == pytest.approx(1200)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {
        "criteria": "Nuanced Characters\nPurple Prose",
        "prompt": "{writing_prompt} {test_model_response}",
        "pairwise": PAIRWISE,
        "rivals": "".join(
            json.dumps({"model": model, "rating": rating, "prompt_id": "77", "text": f"{model}'s piece {n}"}) + "\n"
            for model, rating in (("weak", 800), ("strong", 1500))
            for n in range(2)
        ),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return {f"creative-writing-v3.{name}": tmp_path / name for name in contents}


def judged(messages: list[dict]) -> str:
    """Prefers ours to the weak one and the strong one to ours, wherever they stand."""
    text = messages[0]["content"]
    if "A0493" not in text:
        return "Nuanced Characters: 12\nPurple Prose: 4"
    first, second = (part.split("]")[1] for part in text.split("[WRITER")[1:])
    better = "A0493" if "strong" in first or "weak" in second else "A0488"
    return json.dumps({"writing_quality": f"{better}+++", "coherence": f"{better}++"})


def request(prompt: str = "77", sample: int = 1) -> RewardRequest:
    reference = {"rule": "creative", "seeds": [], "template": "Write.", "prompt_id": prompt}
    return RewardRequest(
        f"creative-writing-v3|x|{sample}", "Write.", "our piece", Verifier(kind="judged", reference=reference)
    )


def test_both_orders_are_asked_of_every_rival_and_rated(files: dict[str, Path]) -> None:
    judge = Scripted(judged)
    scorer = JudgedScorer(judge, files)
    (reward, left_out) = scorer.score([request(), request("5")], 5)
    scorer.close()
    assert [(found["rival"], found["ours"], found["theirs"]) for found in reward.evidence["duels"]] == [
        ("weak", 10, -4), ("strong", -4, 10),
    ]  # fmt: skip
    asked = [messages[0]["content"] for messages in judge.asked if "A0493" in messages[0]["content"]]
    assert len(asked) == 4
    assert all("piece 1" in text for text in asked), "the rival's piece of the same sample"
    assert "duels" not in left_out.evidence, "the reference leaves this prompt out"
    pieces = [answer("creative-writing-v3", "a", 0, reward.value, duels=reward.evidence["duels"])] * 3
    found = creative.metrics(pieces, 0.95, {})
    assert 800 < found["Elo"].value < 1500
    assert found["Elo"].high - found["Elo"].low > 100, "three equal pieces are no certainty"
    assert found["Elo"].unit == "rating"
    assert "Elo" not in creative.metrics([answer("creative-writing-v3", "a", 0, 0.5)], 0.95, {})


def test_half_of_the_files_or_a_bad_line_is_told(files: dict[str, Path]) -> None:
    path = files["creative-writing-v3.rivals"]
    path.write_text(path.read_text() + '{"model": "weak", "rating": 900, "prompt_id": "1", "text": "x"}\n')
    with pytest.raises(BadInput, match=r"rivals:5.*weak has two ratings"):
        JudgedScorer(Scripted(judged), files).check({"creative"})
    del files["creative-writing-v3.pairwise"]
    with pytest.raises(BadInput, match="belong together"):
        JudgedScorer(Scripted(judged), files).check({"creative"})
