"""Known-answer models over a mix of standard benchmarks score exactly, through the real scorers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from components.artifacts.local import LocalContext
from components.data.schema import BenchmarkItem
from components.evaluation.benchmark import find
from components.evaluation.grading import open_grading
from components.evaluation.runner import run_suites
from components.evaluation.sampler import Draw, Drawing, Drawn
from components.evaluation.scores import load_evaluation
from components.evaluation.suite import suites_of
from components.failures import BadInput
from components.recipe.evaluation import BenchmarkSettings, EvaluationConfig
from components.recipe.execution import ExecutionConfig

CODE = "def f(x):\n    return x * 2\n"


def mixed() -> dict[str, list[BenchmarkItem]]:
    """Three items of four benchmarks with answers that are easy to write."""
    rows = {
        "aime25": [{"id": n, "problem": f"What is {n}+{n}?", "answer": str(2 * n)} for n in range(3)],
        "mbpp": [
            {"task_id": n, "prompt": f"Double it ({n}).", "test_list": [f"assert f({n}) == {2 * n}", "assert f(5)==10"]}
            for n in range(3)
        ],
        "arc-agi-1": [
            {
                "task_id": str(n),
                "train": [{"input": [[1]], "output": [[n]]}],
                "test": [{"input": [[1]], "output": [[n]]}],
            }
            for n in range(3)
        ],
        "ifeval": [
            {"key": n, "prompt": f"Be short ({n}).", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
            for n in range(3)
        ],
    }
    return {name: [find(name).item(row) for row in found] for name, found in rows.items()}


class Known:
    """Answers rightly, or wrongly, by sample."""

    wave, context_length = 5, None

    def __init__(self, right) -> None:
        self.right = right
        self.drawings: set[Drawing] = set()

    def room(self, messages) -> None:
        return None

    def draw(self, requests: list[Draw], drawing: Drawing) -> list[Drawn]:
        self.drawings.add(drawing)
        return [Drawn(request.request_id, self._text(request), 3, "stop") for request in requests]

    def _text(self, request: Draw) -> str:
        benchmark, _, sample = request.request_id.rsplit("|", 2)
        right, asked = self.right(int(sample)), request.messages[-1].content
        if benchmark == "aime25":
            number = int(asked.split("What is ")[1].split("+")[0])
            return f"\\boxed{{{2 * number if right else -1}}}"
        if benchmark == "mbpp":
            return f"```python\n{CODE if right else CODE.replace('2', '3')}```"
        if benchmark == "arc-agi-1":
            number = asked.split("Output:\n[")[1].split("]")[0]
            return f"```json\n[[{number if right else 77}]]\n```"
        return "Fine." if right else "Well, no."


def settings(samples: int) -> EvaluationConfig:
    own = tuple(BenchmarkSettings(benchmark=name, samples=samples, max_new_tokens=100) for name in mixed())
    return EvaluationConfig(max_new_tokens=16, settings=own)


def run(tmp_path: Path, known: Known, config: EvaluationConfig):
    items = mixed()
    context = LocalContext(tmp_path, "evaluate", seed=1, execution=ExecutionConfig(), quiet=True)
    with ExitStack() as held:
        flat = [item for members in items.values() for item in members]
        grading = open_grading(held, flat, "", context.execution, {}, tmp_path / "judge.jsonl")
        return run_suites(known, suites_of(items, config), config, grading, context)


@pytest.mark.parametrize(
    ("right", "value"), [(lambda _: True, 1.0), (lambda _: False, 0.0), (lambda sample: sample % 2 == 0, 0.5)]
)
def test_always_right_always_wrong_half_right(tmp_path: Path, right, value: float) -> None:
    known = Known(right)
    evaluation = run(tmp_path, known, settings(4))
    assert {name: score.avg.value for name, score in evaluation.benchmarks.items()} == dict.fromkeys(mixed(), value)
    assert evaluation.metrics["ifeval"]["prompt strict"].value == value
    assert evaluation.metrics["ifeval"]["instruction loose"].value == value
    two = {1.0: 1.0, 0.0: 0.0, 0.5: 5 / 6}[value]  # two of four right, two attempts drawn from them
    assert evaluation.metrics["arc-agi-1"]["pass@1"].value == value
    assert evaluation.metrics["arc-agi-1"]["pass@2"].value == pytest.approx(two)
    assert evaluation.settings["suites"]["aime25"]["samples"] == 4
    evaluation.write(tmp_path)
    assert load_evaluation(tmp_path) == evaluation
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"]["ifeval"]["prompt strict"]["value"] == value


def test_standard_benchmarks_bring_their_own_settings(tmp_path: Path) -> None:
    suites = {suite.name: suite for suite in suites_of(mixed(), EvaluationConfig(samples=2, max_new_tokens=16))}
    assert suites["aime25"].samples == 64
    assert suites["aime25"].drawing.top_p == 0.95
    assert suites["arc-agi-1"].samples == 4
    wrong = (BenchmarkSettings(benchmark="nope"),)
    with pytest.raises(BadInput, match="no benchmark 'nope'"):
        suites_of(mixed(), EvaluationConfig(max_new_tokens=16, settings=wrong))


def test_a_judged_item_without_a_judge_is_told_before_sampling(tmp_path: Path) -> None:
    item = find("healthbench").item(
        {
            "prompt_id": "1",
            "prompt": [{"role": "user", "content": "hi"}],
            "rubrics": [{"criterion": "kind", "points": 1}],
        }
    )
    with ExitStack() as held, pytest.raises(BadInput, match="--judge"):
        open_grading(held, [item], "", ExecutionConfig(), {}, tmp_path / "judge.jsonl")
    with ExitStack() as held, pytest.raises(BadInput, match=r"execution.judges"):
        open_grading(held, [item], "gpt", ExecutionConfig(), {}, tmp_path / "judge.jsonl")
