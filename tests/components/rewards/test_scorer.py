# ruff: noqa: E501
"""Dispatch by verifier, on the real sandbox and the real checker."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from components.data.schema import Verifier
from components.failures import BadInput, InfrastructureError
from components.rewards import extract
from components.rewards.preference import register_rubric
from components.rewards.scorer import open_scorer
from components.rewards.types import RewardRequest
from components.sandbox import Program, Test

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "benchmarks"


def request(kind: str, reference: dict, response: str, truncated: bool = False) -> RewardRequest:
    return RewardRequest("r", "p", response, Verifier(kind=kind, reference=reference), truncated)


@pytest.fixture(scope="module")
def scorer():
    with open_scorer() as opened:
        yield opened


def one(scorer, kind, reference, response):
    (reward,) = scorer.score([request(kind, reference, response)], deadline_s=5.0)
    return reward


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("\\boxed{1}", "1"), ("<think>\\boxed{1}</think>\\boxed{2}", "2"), ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"), ("\\boxed{\\boxed{3}}", "3"), ("\\boxed{x=\\boxed{3}}", "3"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"), ("\\boxed{a\\}b}", "a\\}b"), ("\\fbox{4}", "4"), ("\\boxed {4}", "4"),
        ("\\boxed{}", None), ("\\boxed{1", None), ("\\boxed{1} \\boxed{2", None), ("the answer is 5", None), ("", None),
        ("<think>\\boxed{1}", None), ("<think>\\boxed{1}</think>", None), ("<think>a</think>\\boxed{1}</think>2", None),
        ("\\boxed{é ½}", "é ½"), ("\\boxed{ 7 }", "7"),
    ],
)  # fmt: skip
def test_answer_is_the_last_box_after_the_reasoning(response, answer):
    assert extract.answer(response) == answer


def test_fallbacks_only_by_name():
    assert extract.answer("The final answer is: 42.", ["answer-line"]) == "42"
    assert extract.answer("so 3 and then 1,234", ["last-number"]) == "1,234"
    assert extract.answer("\\boxed{1} and 2", ["last-number"]) == "1"


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("<think>```\nbad\n```</think>```python\ngood\n```", "good\n"), ("```py\na\n```\ntext\n```\nb\n```\n", "b\n"),
        ("</think>def f(x):\n return x", "def f(x):\n return x\n"), ("```python\nx = 1\n", "x = 1\n"), ("</think>  \n", None),
        ("<think>x = 1", None), ("```python\ns = '```'\n```", "s = '```'\n"), ("~~~\na\n~~~", "a\n"),
    ],
)  # fmt: skip
def test_program_is_the_last_block_or_the_text(response, program):
    assert extract.program(response) == program


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("9.8", {"answer": "9.81", "tolerance": 0.01}, 1), ("9.5", {"answer": "9.81", "tolerance": 0.01}, 0),
        ("9.81 \\text{ m/s}^2", {"answer": "9.81", "unit": "m/s^2"}, 1), ("9.81", {"answer": "9.81", "unit": "m/s^2"}, 1),
        ("9.81 \\text{ m}", {"answer": "9.81", "unit": "m/s^2"}, 0), ("2.998\\times 10^8\\ \\text{m/s}", {"answer": "3e8", "unit": "m/s", "tolerance": 0.01}, 1),
        ("1500 m", {"answer": "1.5", "unit": "km"}, 1), ("1.5 km", {"answer": "1500", "unit": "m"}, 1), ("1.5 km", {"answer": "1.5", "unit": "m"}, 0),
        ("2 hours", {"answer": "120", "unit": "min"}, 1), ("72 km/h", {"answer": "20", "unit": "m/s"}, 1), ("5 J", {"answer": "5 J"}, 1),
        ("5 W", {"answer": "5 J"}, 0), ("0.001", {"answer": "0", "tolerance": 0.01}, 1), ("1/3", {"answer": "0.333", "tolerance": 0.01}, 1),
        ("-5", {"answer": "5", "tolerance": 0.1}, 0), ("NaCl", {"answer": "NaCl"}, 1), ("sodium", {"answer": "helium"}, 0),
        ("2 \\text{ mA}", {"answer": "0.002", "unit": "A"}, 1), ("3.2 and 5", {"answer": "3.2"}, 0),
    ],
)  # fmt: skip
def test_science(scorer, answer, reference, value):
    reward = one(scorer, "science", reference, f"\\boxed{{{answer}}}")
    assert reward.value == value, reward


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("a=1; b=0", "a=1;b=0", 1), ("a=1;b=1", "a=1;b=0", 0), ("YES", "yes", 1), ("Abc", "abc", 0), ("cab", "abc", 0),
        ("[1, 2]", "[1,2]", 1), ("\\text{knight}", "knight", 1), ("1/2", "0.5", 0), ("", "x", 0),
    ],
)  # fmt: skip
def test_logic(scorer, answer, reference, value):
    assert one(scorer, "logic", {"answer": reference}, f"\\boxed{{{answer}}}").value == value


def test_instructions_are_all_or_nothing_after_the_reasoning(scorer):
    constraints = [
        {"id": "punctuation:no_comma", "arguments": {}},
        {"id": "length_constraints:number_words", "arguments": {"relation": "at least", "num_words": 2}},
    ]
    reference = {"constraints": constraints}
    assert one(scorer, "instruction", reference, "<think>,</think>one two").verdict == "correct"
    reward = one(scorer, "instruction", reference, "one, two")
    assert (reward.value, reward.evidence) == (0.0, {"failed": ["punctuation:no_comma"], "mode": "strict"})
    loose = one(scorer, "instruction", reference | {"mode": "loose"}, "Sure, here:\none two")
    assert (loose.value, loose.evidence["mode"]) == (1.0, "loose")
    assert one(scorer, "instruction", reference, "<think>one two").verdict == "no-answer"


def test_preference_and_registered_rubrics(scorer):
    register_rubric("shortness", lambda reference, response: 1.0 if len(response) <= reference["limit"] else 0.0)
    assert one(scorer, "preference", {"rubric": "reply", "name": "bob"}, "hello bob thanks").value == 1.0
    assert one(scorer, "preference", {"rubric": "shortness", "limit": 2}, "abc").value == 0.0
    with pytest.raises(BadInput, match="nonesuch"):
        one(scorer, "preference", {"rubric": "nonesuch"}, "abc")


def test_bad_references_are_bad_input_not_wrong_answers(scorer):
    for kind, reference in (
        ("code", {"tests": []}),
        ("code", {"tests": [{"stdin": "1"}]}),
        ("instruction", {"constraints": [{"id": "words:start_verb"}]}),
        ("instruction", {"constraints": [{"id": "punctuation:no_comma", "arguments": {"x": 1}}]}),
    ):
        with pytest.raises(BadInput, match=r"verifier\.reference"):
            one(scorer, kind, reference, "x")


def test_code_all_tests_or_nothing(scorer):
    reference = {"language": "python", "tests": [{"call": "f(1)", "result": "2"}, {"call": "f(2)", "result": "3"}]}
    good, half = "<think>?</think>def f(x):\n    return x + 1", "</think>```python\ndef f(x):\n    return 2\n```"
    rewards = scorer.score([request("code", reference, text) for text in (good, half, "</think>", good)], 5.0)
    assert [reward.value for reward in rewards] == [1.0, 0.0, 0.0, 1.0]
    assert [reward.verdict for reward in rewards] == ["correct", "wrong", "no-answer", "correct"]
    assert rewards[1].evidence["passed"] == 1
    stdin = {"language": "bash", "tests": [{"stdin": "4\n", "stdout": "8\n"}]}
    assert one(scorer, "code", stdin, "```bash\nread x; echo $((2*x))\n```").value == 1.0


@pytest.mark.fault("reward workers gone for good", "while scoring", "verdict error, never a reward of 0")
def test_a_failure_of_the_machine_is_never_a_zero(monkeypatch, scorer):
    from components.rewards import verify_pool
    from components.sandbox import worker

    def broken(*_, **__):
        raise InfrastructureError("the disk is gone")

    monkeypatch.setattr(worker.Worker, "tell", broken)
    monkeypatch.setattr(verify_pool._Process, "ask", broken)
    code = {"language": "python", "tests": [{"call": "f(1)", "result": "77"}]}
    rewards = scorer.score(
        [request("code", code, "def f(x): return 77"), request("math", {"answer": "\\sqrt{7}"}, "\\boxed{7^{1/2}}")],
        5.0,
    )
    assert [(reward.value, reward.verdict) for reward in rewards] == [(None, "error"), (None, "error")]
    assert all("the disk is gone" in reward.evidence["problem"] for reward in rewards)
    monkeypatch.undo()
    assert one(scorer, "code", code, "def f(x): return 77").value == 1.0


def test_close_is_clean_and_idle_costs_nothing():
    scorer = open_scorer()
    assert scorer._sandbox.pids() == []
    scorer.close()
    scorer.close()


def _humaneval() -> list[dict]:
    path = DATA / "humaneval.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} is not here: ../shared/data is absent")
    return [json.loads(line) for line in path.read_text().splitlines()]


def _as_program(problem: dict, body: str) -> Program:
    check = f"{problem['test']}\ncheck({problem['entry_point']})\nprint('checked')\n"
    return Program("python", f"{problem['prompt']}{body}\n{check}")


def test_humaneval_reference_solutions_are_accepted_and_mutants_rejected(scorer):
    problems = _humaneval()
    passed = [Test(stdin="", expected="checked")]
    jobs = [(_as_program(problem, problem["canonical_solution"]), passed) for problem in problems]
    started = time.perf_counter()
    results = scorer._sandbox.run_many(jobs)
    print(f"{len(jobs)} programs in {time.perf_counter() - started:.1f} s")
    refused = [
        (problem["task_id"], result.verdict, result.tests[0].stderr[-300:])
        for problem, result in zip(problems, results, strict=True)
        if not result.accepted
    ]
    assert not refused
    mutations = (("    return None\n", "returns nothing"), ("    return 'wrong'\n", "returns a constant"))
    mutants = [(_as_program(problem, body), passed) for problem in problems[::8] for body, _ in mutations]
    assert not any(result.accepted for result in scorer._sandbox.run_many(mutants))


def _puzzle(question: str, answer: str, name: str, **metadata) -> dict:
    entry = {"question": question, "answer": answer, "metadata": {"source_dataset": name, **metadata}}
    return {"entry": entry}


def test_logic_puzzles_by_the_verifier_of_their_generator(scorer):
    """Other right answers than the generator's own count; the verifier's process cannot be made to run code."""
    countdown = _puzzle("Make 24 of 4, 6, 1", "4*6*1", "countdown", numbers=[4, 6, 1], target=24, expression="4*6*1")
    syllogism = _puzzle("Is it valid?", "Yes", "syllogism", is_valid=True)
    chain = _puzzle("2 + 3 =", "5", "chain_sum")
    grid = _puzzle("What comes out?", "1 2\n3 4", "rearc", output=[[1, 2], [3, 4]])
    rows = [
        (countdown, "4*6*1", 1.0), (countdown, "1*6*4", 1.0), (countdown, "6*4/1", 1.0), (countdown, "4*6", 0.0),
        (countdown, "24", 0.0), (countdown, "__import__('os').system('touch /tmp/pwned-logic')", 0.0),
        (countdown, "9**9**9**9", 0.0), (syllogism, "Yes", 1.0), (syllogism, "No", 0.0), (chain, "5", 1.0), (chain, "6", 0.0),
        (grid, "1 2\n3 4", 1.0), (grid, "1 2\n3 5", 0.0),
    ]  # fmt: skip
    rewards = scorer.score([request("logic", entry, f"\\boxed{{{answer}}}") for entry, answer, _ in rows], 20.0)
    assert [reward.value for reward in rewards] == [value for *_, value in rows], rewards
    assert rewards[0].evidence["method"] == "reasoning-gym"
    assert rewards[0].evidence["score"] == 1.0
    assert not Path("/tmp/pwned-logic").exists()


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"question": "q", "answer": "a"},
        {"question": "q", "answer": "a", "metadata": {"source_dataset": "nonesuch"}},
        {"question": "q", "answer": "a", "metadata": {"source_dataset": "game_of_life_halting"}},
    ],
)
def test_an_entry_of_no_generator_is_bad_input(scorer, entry):
    with pytest.raises(BadInput, match="reasoning-gym"):
        one(scorer, "logic", {"entry": entry}, "\\boxed{a}")


@pytest.mark.parametrize(
    ("answer", "value"),
    [("oxygen", 1), ("\\text{Oxygen}", 1), ("B", 0), ("(B)", 0), ("\\text{B.}", 0), ("nitrogen", 0)],
)
def test_opened_multiple_choice_wants_the_thing_and_no_letter(scorer, answer, value):
    reference = {"answer": "oxygen", "options": {"A": "nitrogen", "B": "oxygen"}}
    assert one(scorer, "science", reference, f"\\boxed{{{answer}}}").value == value
