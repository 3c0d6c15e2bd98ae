"""Judged benchmarks over real HTTP: exact scores from a judge with a rule; one that fails is never a score of 0."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from components.artifacts.local import LocalContext
from components.evaluation.benchmark import find
from components.evaluation.grading import open_grading
from components.evaluation.runner import run_suites
from components.evaluation.sampler import Draw, Drawing, Drawn
from components.evaluation.suite import suites_of, with_agents
from components.evaluation.types import Evaluation
from components.failures import InfrastructureError
from components.recipe.evaluation import AgenticConfig, BenchmarkSettings, EvaluationConfig
from components.recipe.execution import ExecutionConfig, JudgeEndpoint
from tests.components.evaluation.judges import Handler, judge_server

NAMES = ("arena-hard-v2", "healthbench", "creative-writing-v3", "imo25")


@pytest.fixture
def url() -> Iterator[str]:
    with judge_server() as found:
        yield found


class Writer:
    """Answers everything with one text (or with texts in turn, by sample), a grader's question with full points."""

    wave, context_length = 16, None

    def __init__(self, text: str | list[str]) -> None:
        self.texts = [text] if isinstance(text, str) else text

    def room(self, messages) -> None:
        return None

    def draw(self, requests: list[Draw], drawing: Drawing) -> list[Drawn]:
        return [Drawn(r.request_id, self._reply(r), 3, "stop") for r in requests]

    def _reply(self, request: Draw) -> str:
        if "# Solution" in request.messages[-1].content:
            return '{"points": 7, "gaps": []}'
        sample = request.request_id.split("|")[2].partition("/")[0]
        return self.texts[int(sample) % len(self.texts)]


def items():
    rows = {
        "arena-hard-v2": [{"uid": str(n), "category": "hard_prompt", "prompt": f"Why {n}?"} for n in range(3)],
        "healthbench": [
            {
                "prompt_id": str(n),
                "prompt": [{"role": "user", "content": f"help {n}"}],
                "rubrics": [
                    {"criterion": "says rest", "points": 6, "tags": ["axis:accuracy"]},
                    {"criterion": "says leeches", "points": -4, "tags": []},
                    {"criterion": "says doctor", "points": 2, "tags": []},
                ],
                "example_tags": ["theme:hedging"],
            }
            for n in range(3)
        ],
        "creative-writing-v3": [{"prompt_id": str(n), "writing_prompt": f"Write {n}."} for n in range(80, 83)],
        "imo25": [{"problem_idx": n, "problem": f"Prove {n}."} for n in range(3)],
    }
    return {name: [find(name).item(row) for row in found] for name, found in rows.items()}


def files(root: Path) -> dict[str, Path]:
    contents = {
        "arena-hard-v2.baseline": "".join(json.dumps({"uid": str(n), "answer": "short"}) + "\n" for n in range(3)),
        "creative-writing-v3.criteria": "Nuanced Characters\nPurple Prose\n",
        "creative-writing-v3.negative": "Purple Prose\n",
        "creative-writing-v3.prompt": "{writing_prompt}\n{test_model_response}",
    }
    for name, content in contents.items():
        (root / name).write_text(content)
    return {name: root / name for name in contents}


def run(root: Path, url: str, judge: str, text: str | list[str], bound: float = 0.02) -> Evaluation:
    own = tuple(BenchmarkSettings(benchmark=name, samples=2) for name in NAMES)
    config = EvaluationConfig(max_new_tokens=16, settings=own, judge=judge, agentic=AgenticConfig(solvers=1, rounds=0))
    endpoint = JudgeEndpoint(model=judge, base_url=url, retries=1, deadline_s=0.6, timeout_s=0.2, concurrency=32)
    context = LocalContext(root, "evaluate", 1, ExecutionConfig(judges=(endpoint,)), quiet=True)
    given, asked = files(root), items()
    with ExitStack() as held:
        flat = [item for members in asked.values() for item in members]
        grading = open_grading(held, flat, judge, context.execution, given, root / "judge.jsonl")
        suites = suites_of(asked, config)
        sampler = with_agents(Writer(text), suites, config.agentic, root / "traces")
        return run_suites(sampler, suites, config, grading, context, {}, bound, given)


def test_scores_follow_the_judges_rule_exactly(tmp_path: Path, url: str) -> None:
    found = run(tmp_path, url, "fine", "You should rest, and see a doctor, 3 times.")
    assert found.metrics["arena-hard-v2"]["win rate"].value == 1.0
    assert found.metrics["healthbench"]["score"].value == 1.0
    assert found.metrics["healthbench"]["theme: hedging"].value == 1.0
    assert found.metrics["creative-writing-v3"]["rubric"].value == pytest.approx((12 + 15) / 2 / 20)
    assert found.metrics["imo25"]["best points"].value == pytest.approx(9)
    assert found.overall.judge_failed == 0
    asked = [json.loads(line) for line in (tmp_path / "judge.jsonl").read_text().splitlines()]
    assert len(asked) == 12 + 18 + 6 + 6, "every question and reply is kept"
    (tmp_path / "other").mkdir()
    again = run(tmp_path / "other", url, "fine", "Try leeches.")
    assert again.metrics["healthbench"]["score"].value == 0.0
    assert again.benchmarks["healthbench"].avg.value == 0.0


@pytest.mark.parametrize("judge", ["broken", "stalls", "nonsense"])
def test_a_failing_judge_stops_the_stage_and_is_no_score(tmp_path: Path, url: str, judge: str) -> None:
    with pytest.raises(InfrastructureError, match=r"24 of 24 answers could not be verified.*judge_failure"):
        run(tmp_path, url, judge, "rest")
    assert Handler.asked[judge] >= 24


def test_an_empty_answer_is_no_question_to_the_judge(tmp_path: Path, url: str) -> None:
    found = run(tmp_path, url, "fine", "")
    assert {score.no_answer for score in found.benchmarks.values()} == {6}
    assert Handler.asked["fine"] == 0
    assert found.metrics["arena-hard-v2"]["win rate"].value == 0.0
    health = found.metrics["healthbench"]
    assert (health["score"].value, health["axis: accuracy"].value) == (0.0, 0.0)


def test_who_says_nothing_half_of_the_time_does_not_win_all(tmp_path: Path, url: str) -> None:
    """Metrics are of all questions: a strong loss in both orders weighs three times a plain win in both."""
    found = run(tmp_path, url, "fine", ["You should rest, and see a doctor, 3 times.", ""])
    assert found.metrics["arena-hard-v2"]["win rate"].value == pytest.approx(2 / 8)
    assert found.metrics["healthbench"]["axis: accuracy"].value == 0.5
