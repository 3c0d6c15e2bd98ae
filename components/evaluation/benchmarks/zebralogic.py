"""ZebraLogic: grids of houses. A puzzle is solved when every cell is right; the share of right cells is told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from components.data.schema import Verifier
from components.evaluation.benchmark import Benchmark, Hub, Question, RecordProblem, Row, text
from components.evaluation.statistics import ratio_interval
from components.evaluation.types import Answer, Metric

PROMPT = """{puzzle}

Solve the puzzle. Think step by step, then give the whole solution as one JSON object in a code block, with an entry \
for every house: {{"House 1": {{{fields}}}, "House 2": ...}}."""


def zebralogic(row: Row) -> Question:
    """Fields of the published set: puzzle, size, solution {header, rows}."""
    puzzle = text(row, "puzzle")
    solution = row.get("solution")
    if not isinstance(solution, dict) or not solution.get("header") or not solution.get("rows"):
        raise RecordProblem("solution", "header and rows are expected (the public copy hides them: use the full set)")
    header = [str(name) for name in solution["header"]]
    if header[0] != "House" or any("___" in cells for cells in solution["rows"]):
        raise RecordProblem("solution", "no solved table whose first column is House")
    table = {f"House {cells[0]}": dict(zip(header[1:], cells[1:], strict=True)) for cells in solution["rows"]}
    fields = ", ".join(f'"{name}": "..."' for name in header[1:])
    prompt = PROMPT.format(puzzle=puzzle.strip(), fields=fields)
    verifier = Verifier(kind="table", reference={"table": table})
    houses, _, features = str(row.get("size", "0*0")).partition("*")
    hard = int(houses or 0) * int(features or 0)
    return Question(str(row.get("id") or puzzle), prompt, verifier, f"size {row.get('size', 'unknown')}", hard)


def cells(answers: Sequence[Answer], confidence: float, files: Mapping[str, Path]) -> dict[str, Metric]:
    """Share of right cells among all cells (a large puzzle weighs more, as in ZeroEval); without a table none is right.

    An answer's level is the number of its cells.
    """
    right: dict[str, list[float]] = {}
    size: dict[str, float] = {}
    for answer in answers:
        if answer.value is not None:
            right.setdefault(answer.item, []).append(float(answer.evidence.get("cells", answer.value)) * answer.level)
            size[answer.item] = float(answer.level)
    if not sum(size.values()):
        return {}
    found = ratio_interval([fmean(cells) for cells in right.values()], list(size.values()), confidence)
    return {"cell accuracy": Metric(found.value, found.low, found.high)}


BENCHMARKS = (
    Benchmark(
        name="zebralogic",
        title="ZebraLogic",
        domain="logic",
        read=zebralogic,
        source="arXiv 2502.01100",
        hub=Hub("allenai/ZebraLogicBench-private", "test", "grid_mode"),
        top_p=0.95,
        max_new_tokens=131_072 - 4096,
        metrics=cells,
    ),
)
