"""ARC-AGI-1: grids by examples. A test grid is right when every cell is; a task of several grids counts in equal parts.

Two attempts are allowed officially (pass@2); the Ring-1T report gives pass@1, P4 with four repeats. Four samples an
item give both without bias.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from components.data.schema import Verifier
from components.evaluation.benchmark import Benchmark, Hub, Question, RecordProblem, Row
from components.evaluation.statistics import mean_interval, pass_at_k
from components.evaluation.types import Answer, Metric

PROMPT = """Each pair of grids below follows one rule that turns its input into its output. Cells are digits, 0 to 9.

{examples}

Apply the same rule to {what}. Put the output grid{s} at the end of your answer, in a code block of JSON: {form}.

{tests}"""


def arc(row: Row) -> Question:
    """Fields of the published files: train and test, lists of {input, output}."""
    for part in ("train", "test"):
        if not isinstance(row[part], list) or not row[part]:
            raise RecordProblem(part, "a list of {input, output} pairs is expected")
    tests, several = row["test"], len(row["test"]) > 1
    solutions = [_grid(test.get("output"), f"test[{number}].output") for number, test in enumerate(tests)]
    examples = "\n\n".join(
        f"Example {number}\nInput:\n{_shown(pair['input'])}\nOutput:\n{_shown(pair['output'])}"
        for number, pair in enumerate(row["train"], 1)
    )
    asked = "\n\n".join(
        f"Test input{f' {n}' if several else ''}:\n{_shown(t['input'])}" for n, t in enumerate(tests, 1)
    )
    prompt = PROMPT.format(
        examples=examples,
        what=f"these {len(tests)} inputs" if several else "this input",
        s="s" if several else "",
        form="a list of grids, each a list of rows" if several else "a list of rows, each a list of digits",
        tests=asked,
    )
    verifier = Verifier(kind="grid", reference={"grids": solutions})
    return Question(str(row.get("task_id") or row.get("id") or prompt), prompt, verifier)


def _grid(value: object, field: str) -> list[list[int]]:
    rows = value if isinstance(value, list) else []
    if not rows or not all(isinstance(r, list) and r and all(isinstance(c, int) for c in r) for r in rows):
        raise RecordProblem(field, "a grid is a list of rows of digits")
    return rows


def _shown(grid: Iterable[Iterable[int]]) -> str:
    return "\n".join(json.dumps(list(row)) for row in grid)


def attempts(answers: Sequence[Answer], confidence: float, files: Mapping[str, Path]) -> dict[str, Metric]:
    """pass@1 and pass@2: a task counts when all its test grids are right in one of the attempts."""
    items: dict[str, list[bool]] = {}
    for answer in answers:
        if answer.value is not None:
            items.setdefault(answer.item, []).append(answer.value >= 1)
    found = {}
    for k in (1, 2):
        values = [pass_at_k(len(tries), sum(tries), k) for tries in items.values() if len(tries) >= k]
        if values:
            interval = mean_interval(values, 1, confidence)
            found[f"pass@{k}"] = Metric(interval.value, interval.low, interval.high)
    return found


BENCHMARKS = (
    Benchmark(
        name="arc-agi-1",
        title="ARC-AGI-1 evaluation set",
        domain="logic",
        read=arc,
        source="arXiv 2510.18855 section 5, arXiv 2510.22115",
        hub=Hub("dataartist/arc-agi", "evaluation"),
        samples=4,
        metrics=attempts,
        headline="pass@1",
        top_p=0.95,
        max_new_tokens=131_072 - 16_384,
    ),
)
