"""The solver-grader loop: it mends what graders object to, stays within its bounds, and keeps every word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.data.schema import Message
from components.evaluation.agentic import AgenticSampler, ByBenchmark, objections, read_grade
from components.evaluation.benchmark import find
from components.evaluation.benchmark_data import read_benchmark
from components.evaluation.judged import proof
from components.evaluation.sampler import Draw, Drawing, Drawn
from components.recipe.evaluation import AgenticConfig
from tests.components.evaluation.answers import answer

DRAWING = Drawing(1.0, 1.0, 1000)
DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "benchmarks"


class Talk:
    """Replies by a function of the text; remembers what was asked."""

    wave, context_length = 8, None

    def __init__(self, reply) -> None:
        self.reply, self.asked = reply, []

    def room(self, messages) -> None:
        return None

    def draw(self, requests: list[Draw], drawing: Drawing) -> list[Drawn]:
        self.asked += [request.messages[-1].content for request in requests]
        return [Drawn(r.request_id, self.reply(r.messages[-1].content), 10, "stop") for r in requests]


def grade(points: float, *gaps: str) -> str:
    return f"I looked.\n```json\n{json.dumps({'points': points, 'gaps': list(gaps)})}\n```"


def request() -> Draw:
    return Draw("imo25|p|0", (Message(role="user", content="Prove it."),), 1)


def test_objections_are_handed_back_and_the_mended_solution_is_the_answer(tmp_path: Path) -> None:
    solver = Talk(lambda text: "<think>hm</think>mended" if "case n=1 is missing" in text else "first try")
    grader = Talk(lambda text: grade(7) if "mended" in text else grade(3, "case n=1 is missing"))
    sampler = AgenticSampler(solver, grader, AgenticConfig(solvers=2, graders=2, rounds=3), tmp_path)
    (drawn,) = sampler.draw([request()], DRAWING)
    assert drawn.text == "mended"
    assert (len(solver.asked), len(grader.asked)) == (4, 8)
    assert drawn.tokens == 120
    trace = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert trace["ended_by"] == "accepted"
    assert [attempt["round"] for attempt in trace["attempts"]] == [0, 0, 1, 1]
    assert trace["attempts"][0]["grades"][0]["gaps"] == ["case n=1 is missing"]


@pytest.mark.parametrize(
    ("options", "ended", "rounds"),
    [
        ({"rounds": 2}, "rounds", 3),
        ({"rounds": 9, "token_budget": 50}, "token budget", 2),
        ({"rounds": 0}, "rounds", 1),
    ],
)
def test_rounds_and_tokens_are_bounds(tmp_path: Path, options: dict, ended: str, rounds: int) -> None:
    config = AgenticConfig(solvers=1, graders=2, **options)
    sampler = AgenticSampler(Talk(lambda text: "try"), Talk(lambda text: grade(2, "no")), config, tmp_path)
    assert sampler.draw([request()], DRAWING)[0].text == "try"
    trace = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert (trace["ended_by"], len(trace["attempts"])) == (ended, rounds)


def test_a_grader_that_cannot_be_read_is_no_zero(tmp_path: Path) -> None:
    replies = iter(["mumble", grade(4, "gap"), "mumble", "mumble"])
    config = AgenticConfig(solvers=2, graders=2, rounds=0)
    sampler = AgenticSampler(Talk(lambda text: "try"), Talk(lambda text: next(replies)), config, tmp_path)
    sampler.draw([request()], DRAWING)
    trace = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert [(len(a["grades"]), a["unread"]) for a in trace["attempts"]] == [(1, 1), (0, 2)]
    silent = AgenticSampler(Talk(lambda text: "try"), Talk(lambda text: "mumble"), config, tmp_path)
    (drawn,) = silent.draw([request()], DRAWING)
    assert drawn.text == "try"
    trace = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert trace["ended_by"] == "rounds; no grade could be read"


def test_an_ungraded_solution_comes_before_an_empty_one(tmp_path: Path) -> None:
    written = iter(["", "try"])
    config = AgenticConfig(solvers=2, graders=1, rounds=0)
    sampler = AgenticSampler(Talk(lambda text: next(written)), Talk(lambda text: "mumble"), config, tmp_path)
    assert sampler.draw([request()], DRAWING)[0].text == "try"


def test_grades_are_read_from_the_end_and_within_range() -> None:
    assert read_grade(f"{grade(3)} no, {grade(5, 'x')}").points == 5
    assert read_grade(grade(9)) is None
    assert read_grade("7 points") is None


def test_only_its_benchmarks_go_through_the_loop(tmp_path: Path) -> None:
    usual, special = Talk(lambda text: "plain"), Talk(lambda text: "agents")
    both = ByBenchmark(usual, special, frozenset({"imo25"}))
    other = Draw("aime25|p|0", (Message(role="user", content="1+1?"),), 1)
    assert [drawn.text for drawn in both.draw([other, request()], DRAWING)] == ["plain", "agents"]


def test_marks_of_attempts() -> None:
    answers = [answer("imo25", item, k, points / 7) for item, marks in {"1": (7, 3), "2": (0, 2)}.items()
               for k, points in enumerate(marks)]  # fmt: skip
    found = proof.metrics(answers, 0.95, {})
    assert {name: round(metric.value, 9) for name, metric in found.items()} == {
        "points": 6, "best points": 9, "solved in any attempt": 1,
    }  # fmt: skip
    assert objections(type("A", (), {"grades": []})()) == "- none in words; the grade was not full"


def test_imo_2025_is_read() -> None:
    path = DATA / "imo_2025.jsonl"
    if not path.exists():
        pytest.skip("shared/data is absent")
    items = read_benchmark(find("imo25"), str(path)).items
    assert len(items) == 6
    assert all(item.verifier.reference["rule"] == "proof" for item in items)
